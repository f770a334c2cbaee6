"""Calls of the native functions for depthwise convolution with few taps: converts tensors to the arguments of the C interface."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.ops.calls import address, call
from nas.ops.native import DTYPES, Library

_FAR = 2**63 - 1  # beyond any image


class Taps(NamedTuple):
    """Arguments of a call besides its tensors; see ``kernels/taps.h``."""

    library: Library
    code: int
    shape: tuple[int, int, int, int]
    offsets: Any  # array of pairs

    @property
    def sizes(self) -> tuple[Any, ...]:
        """The first arguments of every function for taps."""
        return self.code, *self.shape, len(self.offsets) // 2, self.offsets


@functools.lru_cache(maxsize=1024)
def packed(offsets: tuple[tuple[int, ...], ...]) -> Any:
    """Offsets of one or two numbers as an array of pairs."""
    numbers = [number for offset in offsets for number in ((0, *offset) if len(offset) == 1 else offset)]
    return (ctypes.c_int64 * len(numbers))(*(max(-_FAR, min(number, _FAR)) for number in numbers))


def forward(x: Tensor, weights: Tensor, taps: Taps) -> Tensor:
    """Calls ``nas_taps_forward``; `x` must be contiguous."""
    result = torch.empty_like(x)
    kernel_weights = _kernel_weights(weights, x.dtype)
    num_threads = torch.get_num_threads()
    workspace = _workspace(taps, x, False, num_threads)
    pointers = map(address, (x, kernel_weights, result, workspace))
    call(taps.library.taps_forward, x, *taps.sizes, *pointers, num_threads=num_threads)
    return result


def backward(grad: Tensor, x: Tensor | None, weights: Tensor | None, taps: Taps) -> tuple[Tensor | None, Tensor | None]:
    """Calls ``nas_taps_backward``; returns the gradients of the input and of the weights (in the accumulation type).

    `x` must be contiguous; it is None if the weights need no gradient. `weights` is None if the input needs no gradient.
    """
    grad = grad.resolve_neg().contiguous()
    kernel_weights = None if weights is None else _kernel_weights(weights, grad.dtype)
    x_grad = None if weights is None else torch.empty_like(grad)
    weight_grad = None
    if x is not None:
        size = (taps.shape[1], len(taps.offsets) // 2)
        weight_grad = torch.empty(size, dtype=DTYPES[grad.dtype][1], device=grad.device)
    num_threads = torch.get_num_threads()
    workspace = _workspace(taps, grad, x is not None, num_threads)
    pointers = map(address, (x, kernel_weights, grad, x_grad, weight_grad, workspace))
    call(taps.library.taps_backward, grad, *taps.sizes, *pointers, num_threads=num_threads)
    return x_grad, weight_grad


def _kernel_weights(weights: Tensor, dtype: torch.dtype) -> Tensor:
    return weights.to(DTYPES[dtype][1]).contiguous()


def _workspace(taps: Taps, tensor: Tensor, wants_dw: bool, num_threads: int) -> Tensor | None:
    """Memory for the call's number of threads, since another thread may change torch's number at any time."""
    num_bytes = taps.library.taps_workspace(*taps.sizes, wants_dw, num_threads)
    return torch.empty(num_bytes, dtype=torch.uint8, device=tensor.device) if num_bytes else None
