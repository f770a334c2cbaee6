"""A check that a native library computes correct results on the device where it is used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.ops import tap_calls
from nas.ops.calls import Layout, backward, forward
from nas.ops.native import DTYPES, Library


def self_check(library: Library, device: torch.device) -> str:
    """Compares a library, forward and backward, with float64 expressions on small tensors; returns the first difference, or ``""``."""
    return _check_mix(library, device) or _check_taps(library, device)


def _check_mix(library: Library, device: torch.device) -> str:
    generator = torch.Generator().manual_seed(0)
    for dtype, (code, kind) in DTYPES.items():
        for shape in ((5,), (4, 5)):
            *outputs, grad = torch.randn(6, 4, 517, generator=generator).to(device, dtype)
            weights = torch.rand(shape, generator=generator).to(device, kind)
            groups = len(weights) if len(shape) == 2 else 1
            layout = Layout(library, code, grad.numel(), groups, grad.numel() // groups, 0, None)
            got = forward(outputs, weights, layout), *backward(grad, outputs, weights, layout, [True] * 5)
            x, dy, w = torch.stack(outputs, -1).double(), grad.double()[..., None], weights.double().view(groups, 1, 5)
            expected = [(x * w).sum(-1), (dy * x).sum(1 if groups > 1 else (0, 1)), *(dy * w).unbind(-1)]
            names = ("the result", "the gradient of the weights", *["the gradient of an output"] * 5)
            # sums of 2068 products in the accumulation type, or one rounding to the dtype
            rooms = torch.finfo(kind).eps * 1e3, torch.finfo(dtype).eps * 16
            if wrong := _first_difference(names, got, expected, *rooms):
                return f"{wrong} is wrong for {dtype} and weights {tuple(shape)}"
    return ""


def _check_taps(library: Library, device: torch.device) -> str:
    generator = torch.Generator().manual_seed(0)
    near = [(i, j) for i in (-1, 0, 1) for j in (-2, 0, 3)]
    for dtype, (code, kind) in DTYPES.items():
        # sizes of whole vectors and others, one tile and many, taps that fit into a tile in shared memory and taps that do not
        sizes = (9, 64, near), (1, 2051, [(0, -5), (0, 0), (0, 16)]), (90, 61, [*near, (-80, 60)])
        for height, width, offsets in sizes:
            x, grad = torch.randn(2, 2, 3, height, width, generator=generator).to(device, dtype)
            weights = torch.rand(3, len(offsets), generator=generator).to(device, kind)
            taps = tap_calls.Taps(library, code, tuple(x.shape), tap_calls.packed(tuple(offsets)))
            got = tap_calls.forward(x, weights, taps), *tap_calls.backward(grad, x, weights, taps)
            expected = _true_taps(x.double(), grad.double(), weights.double(), offsets)
            names = ("the result", "the gradient of the input", "the gradient of the weights")
            # sums of up to 10980 products in the accumulation type, or one rounding to the dtype
            rooms = torch.finfo(kind).eps * 3e3, torch.finfo(dtype).eps * 64
            if wrong := _first_difference(names, got, expected, *rooms):
                return f"{wrong} of taps is wrong for {dtype} and images of {height} x {width}"
    return ""


def _first_difference(
    names: Sequence[str], got: Sequence[Tensor | None], expected: Sequence[Tensor], of_weights: float, of_others: float
) -> str:
    """The name of the first tensor beyond its tolerance (one for weight gradients, one for other tensors), or ``""``."""
    for name, value, true in zip(names, got, expected, strict=True):
        room = of_weights if name.endswith("weights") else of_others
        if value is None or not torch.allclose(value.double(), true, rtol=room, atol=room):
            return name
    return ""


def _true_taps(
    x: Tensor, grad: Tensor, weights: Tensor, offsets: list[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = x.shape[-2:]
    result, x_grad, weight_grad = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(weights)
    for t, (dy, dx) in enumerate(offsets):
        weight = weights[:, t, None, None]
        to = (..., slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
        of = (..., slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx)))
        result[to] += weight * x[of]
        x_grad[of] += weight * grad[to]
        weight_grad[:, t] = (grad[to] * x[of]).sum((0, 2, 3))
    return result, x_grad, weight_grad
