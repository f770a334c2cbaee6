"""Depthwise convolution with few taps: the sum of several dilated depthwise convolutions of one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.ops.fused import is_plain_eager, is_plain_gradient, is_plain_tensor, live
from nas.ops.native import DTYPES, MAX_TAPS
from nas.ops.tap_calls import Taps, backward, forward, packed

Offsets = tuple[tuple[int, ...], ...]


def tap_conv(x: Tensor, weights: Tensor, offsets: Offsets) -> Tensor:
    """``y[b, c, p] = sum_t weights[c, t] * x[b, c, p + offsets[t]]``, for positions p of one or two dimensions.

    Positions outside of `x` count as 0, the stride is 1, and the result has the shape of `x`. A depthwise convolution of kernel size 3
    and dilation d has the taps -d, 0 and d. A weighted sum of several convolutions is one call with all their taps; the tap weights are
    products. Only `x` and `weights` are kept for the backward pass.

    Native kernels (``kernels/``) compute the result in one pass over memory and both gradients in another. They support eager mode without
    autocast, float32, float64, float16 and bfloat16, and at most 128 taps. Inputs that are not contiguous are copied; the result is
    contiguous. All other cases, and all cases under ``NAS_KERNELS=reference``, use :func:`tap_conv_reference`. The gradient of the weights
    has the same bits for any number of threads.

    Args:
        x: The input.
        weights: One weight for each channel and tap. For 16-bit inputs the kernels use weights in float32, without rounding them.
        offsets: For each tap, one integer for each dimension, of any sign and size; taps with equal offsets add up.

    Shape:
        - x: (B, C, L) or (B, C, H, W); without B, the reference is used
        - weights: (C, T)
        - result: like x

    Raises:
        ValueError: There are no offsets; offsets, weights and `x` do not fit each other; or NAS_KERNELS names a missing backend.
    """
    _check(x, weights, offsets)
    if not torch.compiler.is_compiling():
        taps = _taps_of(x, weights, offsets)
        if taps is not None:
            x = x.contiguous()
            if torch.is_grad_enabled():
                result: Tensor = _TapConv.apply(x, weights, taps, offsets)
                return result
            return forward(x, weights, taps)
    return _expression(x, weights, offsets)


def tap_conv_reference(x: Tensor, weights: Tensor, offsets: Offsets) -> Tensor:
    """:func:`tap_conv` as one dense convolution whose kernel is mostly zeros; it works everywhere.

    Its cost grows with the distance of the outermost taps: the kernel has 11 x 11 elements for five dilated convolutions of 3 x 3, and
    thousands of elements for dilations in the thousands.
    """
    _check(x, weights, offsets)
    return _expression(x, weights, offsets)


def _check(x: Tensor, weights: Tensor, offsets: Offsets) -> None:
    num = len(offsets[0]) if offsets else 0
    if num not in (1, 2) or any(len(offset) != num for offset in offsets):
        raise ValueError(
            f"offsets must be at least one tuple of one or two integers, all of the same length, got {offsets}"
        )
    if x.dim() not in (num + 1, num + 2):
        raise ValueError(f"offsets of {num} integers do not fit an input of shape {tuple(x.shape)}")
    channels = x.shape[-num - 1]
    if weights.shape != (channels, len(offsets)):
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} do not fit {channels} channels and {len(offsets)} offsets"
        )


def _expression(x: Tensor, weights: Tensor, offsets: Offsets) -> Tensor:
    if x.numel() == 0:
        return x * weights.sum().to(x.dtype)
    sizes = x.shape[-len(offsets[0]) :]
    columns = weights.to(x.dtype).unbind(-1)
    inside = [t for t, offset in enumerate(offsets) if all(abs(o) < n for o, n in zip(offset, sizes, strict=True))]
    reach = [max([abs(offsets[t][d]) for t in inside], default=0) for d in range(len(sizes))]
    shape = [2 * r + 1 for r in reach]
    cells: dict[int, Tensor] = {}  # nonzero elements of the dense kernel
    for t in inside:
        cell = 0
        for offset, r, length in zip(offsets[t], reach, shape, strict=True):
            cell = cell * length + offset + r
        cells[cell] = cells[cell] + columns[t] if cell in cells else columns[t]
    if not cells:
        cells[0] = columns[0] * 0  # no tap reaches the image, but every weight has a gradient
    pieces, end = [], 0
    num_cells = shape[0] * shape[-1] if len(shape) == 2 else shape[0]
    for cell in sorted(cells):
        pieces += [columns[0].new_zeros(len(columns[0]), cell - end), cells[cell][:, None]]
        end = cell + 1
    pieces.append(columns[0].new_zeros(len(columns[0]), num_cells - end))
    kernel = torch.cat(pieces, 1).view(-1, 1, *shape)
    convolution = F.conv1d if len(shape) == 1 else F.conv2d
    return convolution(x, kernel, padding=reach, groups=len(kernel))


def runs_natively(device: torch.device, num_taps: int) -> bool:
    """Whether a native kernel currently supports this number of taps. Otherwise the cost is that of a dense kernel around all taps."""
    # torch.is_autocast_enabled raises for devices that have no library
    return (
        num_taps <= MAX_TAPS
        and is_plain_eager()
        and live(device) is not None
        and not torch.is_autocast_enabled(device.type)
    )


def _taps_of(x: Tensor, weights: Tensor, offsets: Offsets) -> Taps | None:
    """Arguments for a native library; None: the library does not support these tensors."""
    device = x.device
    if x.dtype not in DTYPES or x.dim() != len(offsets[0]) + 2 or not runs_natively(device, len(offsets)):
        return None
    library = live(device)
    if (
        not is_plain_tensor(x, device)
        or not is_plain_tensor(weights, device)
        or not weights.is_floating_point()
        or x.numel() == 0
        or library is None
    ):
        return None
    batch, channels, *sizes = x.shape
    return Taps(
        library, DTYPES[x.dtype][0], (batch, channels, 1 if len(sizes) == 1 else sizes[0], sizes[-1]), packed(offsets)
    )


class _TapConv(torch.autograd.Function):
    """Computes the result in one pass, and both gradients in another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, taps: Taps, offsets: Offsets) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.taps, ctx.offsets = taps, offsets
        ctx.dtype = weights.dtype
        needs_x, needs_weights = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if needs_weights else None, weights if needs_x else None)
        return forward(x, weights, taps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        x, weights = ctx.saved_tensors
        # under create_graph the gradients must be differentiable themselves, as plain operations are
        if torch.is_grad_enabled() or not is_plain_gradient(grad):
            x_grad, weight_grad = expression_backward(grad, x, weights, ctx.offsets)
        else:
            x_grad, weight_grad = backward(grad, x, weights, ctx.taps)
        return x_grad, None if weight_grad is None else weight_grad.to(ctx.dtype), None, None


def expression_backward(
    grad: Tensor, x: Tensor | None, weights: Tensor | None, offsets: Offsets
) -> tuple[Tensor | None, Tensor | None]:
    """The same as :func:`nas.ops.tap_calls.backward` in plain, differentiable operations."""
    x_grad = weight_grad = None
    turned = tuple(tuple(-o for o in offset) for offset in offsets)
    if weights is not None:
        x_grad = _expression(grad, weights, turned)
    if x is not None:
        kind = DTYPES[x.dtype][1]
        over = [0, *range(2, grad.dim())]
        products = [
            _part(grad, back).to(kind) * _part(x, offset).to(kind) for offset, back in zip(offsets, turned, strict=True)
        ]
        weight_grad = torch.stack([product.sum(over) for product in products], -1)
    return x_grad, weight_grad


def _part(image: Tensor, offset: Sequence[int]) -> Tensor:
    """The part of the input that a tap reads; with the offset negated, the part of the result that the tap contributes to."""
    for dim, o in enumerate(offset, 2):
        size = image.shape[dim]
        image = image.narrow(dim, min(size, max(0, o)), max(0, size - abs(o)))
    return image
