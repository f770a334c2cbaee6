"""Calls of the native mixing functions: converts tensors to the arguments of the C interface."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.ops.native import DTYPES, MAX_K, Library

_ARRAYS = [ctypes.c_void_p * k for k in range(MAX_K + 1)]


class Layout(NamedTuple):
    """Properties of the tensors of a call; see ``kernels/mix.h``."""

    library: Library
    code: int
    num_elements: int
    groups: int
    inner: int
    dim: int
    strides: tuple[int, ...] | None  # None: contiguous

    def sizes(self, num: int) -> tuple[int, ...]:
        """The first arguments of every mixing function, for `num` outputs."""
        return self.code, num, self.num_elements, self.groups, self.inner


def forward(
    outputs: Sequence[Tensor], weights: Tensor | None, layout: Layout, prescaled: tuple[int, ...] = ()
) -> Tensor:
    """Calls ``nas_mix_forward``. Outputs at the ascending positions `prescaled` have weight 1."""
    num = len(outputs)
    result = torch.empty_like(outputs[0])
    # this name keeps the memory of the weights alive during the call
    kernel_weights = None if weights is None else _kernel_weights(weights, result.dtype)
    if kernel_weights is not None and prescaled:
        kernel_weights = _with_ones(kernel_weights, prescaled, num)
    arrays = _ARRAYS[num](*map(Tensor.data_ptr, outputs)), address(kernel_weights), result.data_ptr()
    call(layout.library.forward, result, *layout.sizes(num), *arrays)
    return result


def backward(
    grad: Tensor, outputs: Sequence[Tensor], weights: Tensor, layout: Layout, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Calls ``nas_mix_backward``; returns the gradients of the weights and of each output, None for gradients that are not needed.

    `grad` may have any layout. `outputs` is empty if the weights need no gradient.
    """
    library, sizes = layout.library, layout.sizes(len(needs))
    if grad.is_neg():
        grad = grad.resolve_neg()
    if layout.strides is None:
        grad = grad.contiguous()
    elif grad.stride() != layout.strides:
        grad = torch.empty_strided(grad.shape, layout.strides, dtype=grad.dtype, device=grad.device).copy_(grad)
    kernel_weights = _kernel_weights(weights, grad.dtype)
    grads = [torch.empty_like(grad) if needed else None for needed in needs]
    weight_grad = workspace = None
    if outputs:
        weight_grad = torch.empty_like(kernel_weights)
        if num_bytes := _workspace(library, *sizes):
            workspace = torch.empty(num_bytes, dtype=torch.uint8, device=grad.device)
    array = _ARRAYS[len(needs)]
    arrays = array(*map(Tensor.data_ptr, outputs)) if outputs else None, kernel_weights.data_ptr(), grad.data_ptr()
    results = array(*map(address, grads)), address(weight_grad), address(workspace)
    call(library.backward, grad, *sizes, *arrays, *results)
    if weight_grad is not None and kernel_weights is not weights:
        weight_grad = (weight_grad.t() if weights.dim() == 2 else weight_grad).to(weights.dtype)
    return weight_grad, *grads


def address(tensor: Tensor | None) -> int | None:
    """The address of a tensor's memory; None, the null pointer, for no tensor."""
    return None if tensor is None else tensor.data_ptr()


def _kernel_weights(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights as (K, groups), contiguous, in the accumulation type."""
    kind = DTYPES[dtype][1]
    if weights.dim() == 2:
        return weights.t().to(kind).contiguous()
    return weights if weights.dtype is kind and weights.is_contiguous() else weights.to(kind).contiguous()


def _with_ones(weights: Tensor, positions: tuple[int, ...], num: int) -> Tensor:
    """(num,) weights, with 1 inserted at these positions."""
    ones, order = _ones(positions, num, weights.dtype, weights.device)
    joined = torch.cat((weights, ones))
    return joined if order is None else joined[order]


@functools.lru_cache(maxsize=1024)
def _ones(
    positions: tuple[int, ...], num: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The ones, and the position of each output's weight in (weights, ones); None if they are in order."""
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
    """Calls a library function on the tensor's device: on the current stream, or in `num_threads` CPU threads (None: torch's number)."""
    if tensor.is_cpu:
        error = function(*args, num_threads or torch.get_num_threads(), None)
    else:
        with torch.cuda.device(tensor.device):
            error = function(*args, 0, torch.cuda.current_stream().cuda_stream)
    if error:
        raise RuntimeError(f"{function.__name__} failed with error {error} of kernels/mix.h for sizes {args[:5]}")
