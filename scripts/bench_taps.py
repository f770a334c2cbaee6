"""A mixed operation of five dilated depthwise convolutions: as one convolution with few taps, and in other ways.

Command: python scripts/bench_taps.py --threads 1

Kernel size 3, float32, batch 32; sequences of 1024 with dilations 1, 2, 4, 8, 16 and images of 32 x 32 with dilations 1 to 5. Measured:
forward and backward, with the gradients of the input, of all five kernels and of the five op weights. "five convolutions" computes each
convolution and mixes the results in plain torch; "one F.conv" merges the kernels into a dense kernel of mostly zeros, "native" into the
taps that are not zero (11 and 41). "copies" moves the least number of bytes by Tensor.copy_: reads x, writes y; reads dy and x, writes dx.

scripts/bench_mix.py describes how times and ratios are measured. "kept" is the memory of all tensors that are saved for the backward
pass, each counted once. "difference" is the largest difference of any gradient from five convolutions in float64, relative to the largest
gradient.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from bench_mix import CACHE_BYTES, figures, keep_memory, pin, show, take_turns
from torch import Tensor
from torch.nn import functional as F

from nas.ops import mix_reference, tap_conv, tap_conv_reference
from nas.profile.memory import saved_bytes

Shape = tuple[int, ...]
DILATIONS = {1: (1, 2, 4, 8, 16), 2: (1, 2, 3, 4, 5)}  # by number of dimensions
CASES: Sequence[Shape] = ((32, 32, 1024), (32, 64, 1024), (32, 32, 32, 32), (32, 64, 32, 32))


class Inputs(NamedTuple):
    """Of one mixed operation: the input, a kernel for each dilation, op weights, and a gradient of the result."""

    x: Tensor
    kernels: list[Tensor]
    weights: Tensor
    grad: Tensor

    def leaves(self) -> list[Tensor]:
        """What needs a gradient."""
        return [self.x, *self.kernels, self.weights]


Function = Callable[[Inputs], Tensor]


def inputs_of(shape: Shape, dtype: torch.dtype = torch.float32) -> Inputs:
    """Random inputs."""
    num, channels = len(shape) - 2, shape[1]
    kernels = [torch.randn(channels, 1, *[3] * num, dtype=dtype).requires_grad_() for _ in DILATIONS[num]]
    weights = torch.rand(len(kernels), dtype=dtype).requires_grad_()
    return Inputs(torch.randn(shape, dtype=dtype).requires_grad_(), kernels, weights, torch.randn(shape, dtype=dtype))


def five_convolutions(inputs: Inputs) -> Tensor:
    """Each candidate, then their weighted sum."""
    num = inputs.x.dim() - 2
    convolution = F.conv1d if num == 1 else F.conv2d
    outputs = [
        convolution(inputs.x, kernel, padding=d, dilation=d, groups=len(kernel))
        for kernel, d in zip(inputs.kernels, DILATIONS[num], strict=True)
    ]
    return mix_reference(outputs, inputs.weights)


def merged_by(function: Callable[..., Tensor], shape: Shape) -> Function:
    """One call of a function with all taps."""
    num = len(shape) - 2
    steps = [(i,) for i in (-1, 0, 1)] if num == 1 else [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    places = [tuple(i * d for i in step) for d in DILATIONS[num] for step in steps]
    offsets = tuple(dict.fromkeys(places))
    index = torch.tensor([offsets.index(place) for place in places])

    def step(inputs: Inputs) -> Tensor:
        kernels = torch.stack(inputs.kernels, 1).flatten(2) * inputs.weights[:, None]
        weights = kernels.new_zeros(len(kernels), len(offsets)).index_add(1, index, kernels.flatten(1))
        return function(inputs.x, weights, offsets)

    return step


def gradients_of(function: Function) -> Callable[[Inputs], tuple[Tensor, ...]]:
    """Forward and backward."""

    def step(inputs: Inputs) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(inputs), inputs.leaves(), inputs.grad)

    return step


def copies(inputs: Inputs) -> None:
    """Two and a half: five tensors of the input's size are read or written."""
    x, grad = inputs.x.detach(), inputs.grad
    for _ in range(2):
        torch.empty_like(x).copy_(x)
    half = grad.flatten()[: grad.numel() // 2]
    torch.empty_like(half).copy_(half)


def difference(function: Function, shape: Shape) -> float:
    """Of all gradients from those of five convolutions, in float64, relative to the largest of each."""
    inputs = inputs_of(shape, torch.float64)
    pairs = zip(gradients_of(function)(inputs), gradients_of(five_convolutions)(inputs), strict=True)
    return max(((mine - other).abs().max() / other.abs().max()).item() for mine, other in pairs)


def measure(shape: Shape, rounds: int) -> list[dict[str, Any]]:
    """Times of all contestants in microseconds, their ratios to native, what they keep and how they differ."""
    functions: dict[str, Function] = {
        "native": merged_by(tap_conv, shape),
        "one F.conv": merged_by(tap_conv_reference, shape),
        "five convolutions": five_convolutions,
    }
    contestants: dict[str, Callable[[Inputs], Any]] = {name: gradients_of(f) for name, f in functions.items()}
    sets = [inputs_of(shape) for _ in range(max(2, CACHE_BYTES // (torch.Size(shape).numel() * 8)))]
    times = take_turns({**contestants, "copies": copies}, sets, 1, rounds)
    return [
        {
            "shape": list(shape),
            "contestant": name,
            **figures(values, times["native"]),
            "kept_bytes": saved_bytes(partial(functions[name], sets[0]), ()) if name in functions else 0,
            "difference": difference(functions[name], shape) if name in functions else 0.0,
        }
        for name, values in times.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| shape | contestant | median us | min us | ratio | of minima | kept MB | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| ({', '.join(map(str, row['shape']))}) | {row['contestant']} | {row['median_us']:,.0f} | {row['min_us']:,.0f} "
            f"| {row['ratio']:.2f} | {row['ratio_of_min']:.2f} | {row['kept_bytes'] / 1e6:.2f} | {row['difference']:.1e} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--shape", help="like 32,64,1024 or 32,64,32,32; default: the sizes of kernels/README.md")
    parser.add_argument("--malloc", choices=("default", "keep"), default="default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    pin(options.threads)
    if options.malloc == "keep":
        keep_memory()
    torch.manual_seed(0)
    cases = [tuple(int(size) for size in options.shape.split(","))] if options.shape else CASES
    rows = [row for shape in cases for row in measure(shape, options.rounds)]
    show(rows, table(rows), as_json=options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
