"""Calls of the native libraries: what their C interface needs of tensors, and a check that the answers are right."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.ops.native import DTYPES, MAX_K, Library

_pointer = Tensor.data_ptr
_ARRAYS = [ctypes.c_void_p * k for k in range(MAX_K + 1)]


class Layout(NamedTuple):
    """What a call of the library needs to know of its tensors; see ``kernels/mix.h``."""

    library: Library
    code: int
    num_elements: int
    groups: int
    inner: int
    dim: int
    strides: tuple[int, ...] | None  # None: contiguous


def forward(outputs: Sequence[Tensor], weights: Tensor | None, layout: Layout) -> Tensor:
    """Calls ``nas_mix_forward``."""
    library, code, num_elements, groups, inner, _, _ = layout
    num = len(outputs)
    result = torch.empty_like(outputs[0])
    # a name keeps the memory
    kernel_weights = None if weights is None else _kernel_weights(weights, result.dtype)
    _call(
        library.forward,
        result,
        code,
        num,
        num_elements,
        groups,
        inner,
        _ARRAYS[num](*map(_pointer, outputs)),
        None if kernel_weights is None else kernel_weights.data_ptr(),
        result.data_ptr(),
    )
    return result


def backward(
    grad: Tensor,
    outputs: Sequence[Tensor],
    weights: Tensor,
    layout: Layout,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Calls ``nas_mix_backward``.

    Args:
        grad: Gradient of the result; any layout.
        outputs: The K outputs where the weights need a gradient, else nothing.
        weights: The weights.
        layout: Of the outputs.
        needs: Which of the outputs need a gradient.

    Returns:
        The gradients of the weights and of each output; None where it is not needed.
    """
    library, code, num_elements, groups, inner, _, strides = layout
    num = len(needs)
    if grad.is_neg():
        grad = grad.resolve_neg()
    if strides is None:
        grad = grad.contiguous()
    elif grad.stride() != strides:
        grad = torch.empty_strided(grad.shape, strides, dtype=grad.dtype, device=grad.device).copy_(grad)
    kernel_weights = _kernel_weights(weights, grad.dtype)
    grads = [torch.empty_like(grad) if needed else None for needed in needs]
    weight_grad = workspace = None
    if outputs:
        weight_grad = torch.empty_like(kernel_weights)
        if num_bytes := _workspace(library, code, num, num_elements, groups, inner):
            workspace = torch.empty(num_bytes, dtype=torch.uint8, device=grad.device)
    _call(
        library.backward,
        grad,
        code,
        num,
        num_elements,
        groups,
        inner,
        _ARRAYS[num](*map(_pointer, outputs)) if outputs else None,
        kernel_weights.data_ptr(),
        grad.data_ptr(),
        _ARRAYS[num](*[None if g is None else g.data_ptr() for g in grads]),
        None if weight_grad is None else weight_grad.data_ptr(),
        None if workspace is None else workspace.data_ptr(),
    )
    if weight_grad is not None and kernel_weights is not weights:
        weight_grad = (weight_grad.t() if weights.dim() == 2 else weight_grad).to(weights.dtype)
    return weight_grad, *grads


def _kernel_weights(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights as (K, groups), contiguous, in the accumulation type."""
    kind = DTYPES[dtype][1]
    if weights.dim() == 2:
        return weights.t().to(kind).contiguous()
    return weights if weights.dtype is kind and weights.is_contiguous() else weights.to(kind).contiguous()


@functools.lru_cache(maxsize=4096)
def _workspace(library: Library, *sizes: int) -> int:
    return library.workspace(*sizes)


def _call(function: Any, tensor: Tensor, *args: Any) -> None:
    if tensor.is_cpu:
        error = function(*args, torch.get_num_threads(), None)
    else:
        with torch.cuda.device(tensor.device):
            error = function(*args, 0, torch.cuda.current_stream().cuda_stream)
    if error:
        raise RuntimeError(f"{function.__name__} failed with error {error} of kernels/mix.h for sizes {args[:5]}")


def self_check(library: Library, device: torch.device) -> str:
    """Compares a library, forward and backward, with float64 expressions on small tensors; says what differs, or nothing."""
    generator = torch.Generator().manual_seed(0)
    for dtype, (code, kind) in DTYPES.items():
        for shape in ((5,), (4, 5)):
            *outputs, grad = torch.randn(6, 4, 517, generator=generator).to(device, dtype)
            weights = torch.rand(shape, generator=generator).to(device, kind)
            groups = len(weights) if len(shape) == 2 else 1
            layout = Layout(library, code, grad.numel(), groups, grad.numel() // groups, 0, None)
            got = [
                forward(outputs, weights, layout),
                *backward(grad, outputs, weights, layout, [True] * 5),
            ]
            x, dy, w = torch.stack(outputs, -1).double(), grad.double()[..., None], weights.double().view(groups, 1, 5)
            expected = [(x * w).sum(-1), (dy * x).sum(1 if groups > 1 else (0, 1)), *(dy * w).unbind(-1)]
            names = ("the result", "the gradient of the weights", *["the gradient of an output"] * 5)
            for name, value, true in zip(names, got, expected, strict=True):
                # sums of 2068 products in the accumulation type, or one rounding to the dtype
                room = torch.finfo(kind).eps * 1e3 if name.endswith("weights") else torch.finfo(dtype).eps * 16
                if value is None or not torch.allclose(value.double(), true, rtol=room, atol=room):
                    return f"{name} is wrong for {dtype} and weights {tuple(shape)}"
    return ""
