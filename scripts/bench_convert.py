"""A training step of a converted network, all widths masked, compared with one of the network itself.

Command: python scripts/bench_convert.py --threads 1

A ResNet-18 of torchvision (batch 16 of 64 x 64 images) and a vision transformer of linear layers and scaled dot-product attention (batch
16 of 65 tokens; width 192, 6 layers, 3 heads). A step is forward, loss and backward with the gradients of all weights; the converted
network also draws a soft Gumbel-Softmax sample and computes the gradient of alpha. scripts/bench_mix.py describes how times are measured;
a ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
import torchvision
from bench_mix import pin, show, take_turns
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.relaxations import GumbelSoftmax


class Block(nn.Module):
    """A layer of a vision transformer."""

    def __init__(self, width: int, heads: int) -> None:
        """The usual sizes."""
        super().__init__()
        self.head_dim = width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the feed-forward layer."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        down: Tensor = self.down(F.gelu(self.up(self.norm2(x))))
        return x + down


def vit() -> tuple[nn.Module, Tensor]:
    """A vision transformer on tokens."""
    return nn.Sequential(
        nn.Linear(48, 192), *[Block(192, 3) for _ in range(6)], nn.LayerNorm(192), nn.Linear(192, 10)
    ), torch.randn(16, 65, 48)


def resnet18() -> tuple[nn.Module, Tensor]:
    """A ResNet-18 on small images."""
    return torchvision.models.resnet18(num_classes=10), torch.randn(16, 3, 64, 64)


def measured(make: Callable[[], tuple[nn.Module, Tensor]], rounds: int) -> dict[str, object]:
    """Times of both steps, and their ratio."""
    torch.manual_seed(0)
    model, x = make()
    supernet = nas.Supernet(nas.convert(model, (x[:2],), verbose=False)).train()
    model.train()
    relaxation = GumbelSoftmax()

    def plain(inputs: Tensor) -> None:
        model(inputs).square().mean().backward()

    def masked(inputs: Tensor) -> None:
        supernet(inputs, op_weights=supernet.sample(relaxation, 1.0)).square().mean().backward()

    times = take_turns({"plain": plain, "masked": masked}, [x, x + 1], 1, rounds)
    ratios = [b / a for a, b in zip(times["plain"], times["masked"], strict=True)]
    return {
        "network": make.__name__,
        "choices": len(supernet.choices),
        "plain ms": statistics.median(times["plain"]) / 1e3,
        "masked ms": statistics.median(times["masked"]) / 1e3,
        "masked / plain": statistics.median(ratios),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    pin(options.threads)
    rows = [measured(make, options.rounds) for make in (resnet18, vit)]
    cells = [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in [list(rows[0]), ["---"] * len(rows[0]), *cells])
    show(rows, text, as_json=options.json)


if __name__ == "__main__":
    main()
