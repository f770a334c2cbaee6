"""Kernel size and dilation of four layers: as values of nas.value, and as the product of candidates written by hand.

Command: python scripts/bench_value.py --threads 1

Four one-dimensional convolutions with kernel sizes 3, 5, 7 and dilations 1, 2, 4, 8, batch norm and ReLU; --channels channels, batch 32 of
--length steps. "values" has both numbers as independent choices of one layer. "convolutions" has a choice of twelve convolutions in its
place, which run as one convolution, and "blocks" a choice of twelve blocks of convolution, batch norm and ReLU. A step is the draw,
forward, loss and backward of a soft Gumbel-Softmax sample. The memory is that of parameters, gradients, and all tensors that autograd
saves, each counted once. scripts/bench_mix.py describes how times are measured; a ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from bench_mix import pin, show, take_turns
from torch import Tensor, nn

import nas
from nas.profile.memory import saved_bytes
from nas.relaxations import GumbelSoftmax

KERNELS, DILATIONS = (3, 5, 7), (1, 2, 4, 8)
NUM_LAYERS, BATCH = 4, 32


def conv(channels: int, kernel: int, dilation: int) -> nn.Conv1d:
    """A convolution that keeps the length."""
    return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)


def block(layer: nn.Module, channels: int) -> nn.Sequential:
    """A layer with batch norm and ReLU."""
    return nn.Sequential(layer, nn.BatchNorm1d(channels), nn.ReLU())


def values(i: int, channels: int) -> nn.Module:
    """Two values in one layer."""
    return block(conv(channels, nas.value(f"kernel{i}", KERNELS), nas.value(f"dilation{i}", DILATIONS)), channels)


def convolutions(i: int, channels: int) -> nn.Module:
    """A choice of twelve convolutions."""
    pairs = {f"{k}x{d}": partial(conv, channels, k, d) for k in KERNELS for d in DILATIONS}
    return block(nas.choice(f"conv{i}", pairs), channels)


def blocks(i: int, channels: int) -> nn.Module:
    """A choice of twelve blocks."""
    return nas.choice(
        f"block{i}",
        {
            f"{k}x{d}": partial(lambda k, d: block(conv(channels, k, d), channels), k, d)
            for k in KERNELS
            for d in DILATIONS
        },
    )


class Search:
    """A supernet of one form, and its step."""

    def __init__(self, layer: Callable[[int, int], nn.Module], channels: int) -> None:
        """Builds the supernet."""
        torch.manual_seed(0)
        self.supernet = nas.Supernet(nn.Sequential(*[layer(i, channels) for i in range(NUM_LAYERS)]))
        self.relaxation = GumbelSoftmax()

    def loss(self, x: Tensor) -> Tensor:
        """The draw and the forward pass."""
        result: Tensor = self.supernet(x, op_weights=self.supernet.sample(self.relaxation, 1.0))
        return result.square().mean()

    def step(self, x: Tensor) -> None:
        """One step."""
        self.loss(x).backward()

    def memory(self, x: Tensor) -> int:
        """Bytes of parameters, gradients and saved tensors."""
        parameters = list(self.supernet.parameters())
        return 2 * sum(p.nbytes for p in parameters) + saved_bytes(lambda: self.loss(x), [*parameters, x])


def measured(channels: int, length: int, rounds: int) -> list[dict[str, object]]:
    """A row for each form, with ratios of values to the form."""
    forms = {layer.__name__: Search(layer, channels) for layer in (values, convolutions, blocks)}
    inputs = [torch.randn(BATCH, channels, length) for _ in range(4)]
    times = take_turns({name: search.step for name, search in forms.items()}, inputs, 1, rounds)
    memory = {name: search.memory(inputs[0]) for name, search in forms.items()}
    return [
        {
            "form": name,
            "channels": channels,
            "length": length,
            "parameters": sum(p.numel() for p in search.supernet.weight_parameters()),
            "ms": statistics.median(times[name]) / 1e3,
            "MiB": memory[name] / 2**20,
            "time of values": statistics.median(a / b for a, b in zip(times["values"], times[name], strict=True)),
            "memory of values": memory["values"] / memory[name],
        }
        for name, search in forms.items()
    ]


def table(rows: Sequence[dict[str, object]]) -> str:
    """Markdown."""
    cells = [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(rows[0]), ["---"] * len(rows[0]), *cells])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    pin(options.threads)
    rows = [row for channels in options.channels for row in measured(channels, options.length, options.rounds)]
    show(rows, table(rows), as_json=options.json)


if __name__ == "__main__":
    main()
