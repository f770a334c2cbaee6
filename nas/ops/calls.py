"""Calls of the native mixing functions: what their C interface needs of tensors."""

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


def forward(
    outputs: Sequence[Tensor], weights: Tensor | None, layout: Layout, prescaled: tuple[int, ...] = ()
) -> Tensor:
    """Calls ``nas_mix_forward``; `prescaled` outputs, positions rising, have weight 1."""
    library, code, num_elements, groups, inner, _, _ = layout
    num = len(outputs)
    result = torch.empty_like(outputs[0])
    # a name keeps the memory
    kernel_weights = None if weights is None else _kernel_weights(weights, result.dtype)
    if kernel_weights is not None and prescaled:
        kernel_weights = _with_ones(kernel_weights, prescaled, num)
    call(
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
    call(
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


def _with_ones(weights: Tensor, positions: tuple[int, ...], num: int) -> Tensor:
    """(num,) weights, 1 at these positions."""
    ones, order = _ones(positions, num, weights.dtype, weights.device)
    joined = torch.cat((weights, ones))
    return joined if order is None else joined[order]


@functools.lru_cache(maxsize=1024)
def _ones(
    positions: tuple[int, ...], num: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The ones, and where in (weights, ones) each output's weight is; None: in its place."""
    first = num - len(positions)
    rest = iter(range(first))
    order = [first + positions.index(k) if k in positions else next(rest) for k in range(num)]
    with torch.inference_mode(False):
        ones = torch.ones(len(positions), dtype=dtype, device=device)
        return ones, None if order == list(range(num)) else torch.tensor(order, device=device)


@functools.lru_cache(maxsize=4096)
def _workspace(library: Library, *sizes: int) -> int:
    return library.workspace(*sizes)


def call(function: Any, tensor: Tensor, *args: Any, num_threads: int | None = None) -> None:
    """Calls a function of a library on the device of a tensor: on its current stream, or in `num_threads` (as many as torch has) threads.

    Raises:
        RuntimeError: It returns an error code.
    """
    if tensor.is_cpu:
        error = function(*args, num_threads or torch.get_num_threads(), None)
    else:
        with torch.cuda.device(tensor.device):
            error = function(*args, 0, torch.cuda.current_stream().cuda_stream)
    if error:
        raise RuntimeError(f"{function.__name__} failed with error {error} of kernels/mix.h for sizes {args[:5]}")
