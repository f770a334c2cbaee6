"""The mixing operation on native libraries: its conditions and its autograd functions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from nas.ops import native
from nas.ops.calls import Layout, backward, forward
from nas.ops.native import DTYPES, MAX_K, Library
from nas.ops.self_check import self_check

try:
    from torch._C import _get_tracing_state, _len_torch_dispatch_stack
    from torch._C._functorch import is_legacy_batchedtensor, peek_interpreter_stack
except ImportError:
    SEES_TRANSFORMS = False  # a later torch with other names for these functions
else:
    SEES_TRANSFORMS = True

_TENSORS = (Tensor, nn.Parameter)
_live: dict[str, Library | None] = {}
_why_not: dict[str, str] = {}


def is_plain_eager() -> bool:
    """Whether nothing watches, records or transforms operations, so that raw pointers may be used."""
    return is_eager() and _len_torch_dispatch_stack() == 0


def is_eager() -> bool:
    """Whether operations run without compilation, tracing or function transforms, so that a simple ``autograd.Function`` works."""
    return (
        SEES_TRANSFORMS
        and not torch.compiler.is_compiling()
        and peek_interpreter_stack() is None
        and _get_tracing_state() is None
        and forward_ad._current_level < 0
    )


def is_plain_tensor(tensor: Tensor, device: torch.device) -> bool:
    """Whether a pointer and strides describe a tensor on this device completely."""
    return (
        type(tensor) in _TENSORS and tensor.device == device and tensor.layout is torch.strided and not tensor.is_neg()
    )


def is_plain_gradient(grad: Tensor) -> bool:
    """Whether a pointer and strides describe a gradient from autograd completely."""
    return (
        is_plain_eager() and type(grad) is Tensor and grad.layout is torch.strided and not is_legacy_batchedtensor(grad)
    )


def layout_of(outputs: Sequence[Tensor], weights: Tensor | None, dim: int, num_prescaled: int = 0) -> Layout | None:
    """The layout of the arguments of :func:`nas.ops.mix` for a native library; None if the library does not support them.

    `weights` is None if all weights are 1. With prescaled outputs, `weights` must have one dimension.
    """
    if not is_plain_eager() or not 1 <= len(outputs) <= MAX_K:
        return None
    first = outputs[0]
    dtype, shape, device = first.dtype, first.shape, first.device
    if dtype not in DTYPES or (num_elements := first.numel()) == 0 or (library := live(device)) is None:
        return None
    strides, on_cpu = None, first.is_cpu
    for output in outputs:
        if (
            type(output) not in _TENSORS
            or output.dtype is not dtype
            or output.layout is not torch.strided
            or (output is not first and output.shape != shape)
            or not (output.is_cpu if on_cpu else output.device == device)
            or output.is_neg()
        ):
            return None
        if not output.is_contiguous():
            strides = first.stride()
    if strides is not None and not (is_dense(first) and all(output.stride() == strides for output in outputs)):
        return None
    groups, inner = 1, num_elements
    if weights is not None:
        if (
            not is_plain_tensor(weights, device)
            or not weights.is_floating_point()
            or weights.shape[-1:] != (len(outputs) - num_prescaled,)
        ):
            return None
        if weights.dim() == 2:
            if num_prescaled or not -len(shape) <= dim < len(shape) or len(weights) != shape[dim]:
                return None
            if len(weights) > 1:
                groups, inner = len(weights), first.stride(dim)
        elif weights.dim() != 1:
            return None
    return Layout(library, DTYPES[dtype][0], num_elements, groups, inner, dim, strides)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gaps or overlaps, in any order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def fused_mix(outputs: Sequence[Tensor], weights: Tensor, layout: Layout, prescaled: tuple[int, ...] = ()) -> Tensor:
    """The native :func:`nas.ops.mix` of tensors that have a layout."""
    if torch.is_grad_enabled():
        result: Tensor = _Mix.apply(layout, prescaled, weights, *outputs)
        return result
    return forward(outputs, weights, layout, prescaled)


def fused_sum(outputs: Sequence[Tensor], layout: Layout) -> Tensor:
    """The native :func:`nas.ops.sum_outputs` of tensors that have a layout."""
    result: Tensor = _Sum.apply(layout, *outputs) if torch.is_grad_enabled() else forward(outputs, None, layout)
    return result


class _Mix(torch.autograd.Function):
    """Computes the result in one pass over memory, and all gradients in another."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, prescaled: tuple[int, ...], weights: Tensor, *outputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.layout, ctx.prescaled = layout, prescaled
        ctx.save_for_backward(weights, *(_without(outputs, prescaled) if ctx.needs_input_grad[2] else ()))
        return forward(outputs, weights, layout, prescaled)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        if grad is None:
            return (None,) * len(needs)
        weights, *outputs = ctx.saved_tensors
        weighted = _without(needs[3:], ctx.prescaled)
        # under create_graph the gradients must be differentiable themselves, as plain operations are
        if torch.is_grad_enabled() or not is_plain_gradient(grad):
            weight_grad, *grads = expression_backward(grad, outputs, weights, ctx.layout.dim, weighted)
        else:
            weight_grad, *grads = backward(grad, outputs, weights, ctx.layout, weighted)
        for k in ctx.prescaled:
            grads.insert(k, grad if needs[3 + k] else None)
        return None, None, weight_grad, *grads


def _without(values: Sequence[Any], positions: tuple[int, ...]) -> Sequence[Any]:
    return [value for k, value in enumerate(values) if k not in positions] if positions else values


class _Sum(torch.autograd.Function):
    """The plain sum; its backward pass copies nothing."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *outputs: Tensor) -> Tensor:
        return forward(outputs, None, layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *[grad if needed else None for needed in ctx.needs_input_grad[1:]]


def expression_backward(
    grad: Tensor, outputs: Sequence[Tensor], weights: Tensor, dim: int, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The same as :func:`backward` in plain, differentiable operations."""
    shape = [1] * grad.dim()
    summed = list(range(grad.dim()))
    if weights.dim() == 2:
        shape[dim] = -1
        del summed[dim]
    grads = [
        grad * weight.view(shape).to(grad.dtype) if needed else None
        for weight, needed in zip(weights.unbind(-1), needs, strict=True)
    ]
    weight_grad = None
    if outputs:
        kind = DTYPES[grad.dtype][1]
        products = [(grad * output).to(kind) for output in outputs]
        weight_grad = torch.stack([p.sum(summed) if summed else p for p in products], -1).to(weights.dtype)
    return weight_grad, *grads


def live(device: torch.device) -> Library | None:
    """The library for a device, loaded on first use; None: the reference expression is used.

    Raises:
        ValueError: NAS_KERNELS is ``native`` but no library works, or NAS_KERNELS has an unknown value.
    """
    try:
        return _live[device.type]
    except KeyError:
        return _resolve(device)


def _resolve(device: torch.device) -> Library | None:
    mode, kind = native.mode(), device.type
    if kind == "cuda" and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return None  # the check below would end the capture
    found: Library | str = f"{native.VARIABLE}=reference" if mode == "reference" else native.find(kind)
    if isinstance(found, Library) and kind == "cuda" and (wrong := self_check(found, device)):
        warnings.warn(f"{found.path}: {wrong}; the reference expression is used", stacklevel=2)
        found = wrong
    if isinstance(found, str) and mode == "native" and kind in ("cpu", "cuda"):
        raise ValueError(f"{native.VARIABLE}=native, but the native library cannot be used: {found}")
    _why_not[kind] = found if isinstance(found, str) else ""
    _live[kind] = found if isinstance(found, Library) else None
    return _live[kind]


def describe(device: torch.device) -> str:
    """Describes the backend of a device and the reason for it, for ``nas doctor``."""
    try:
        library = live(device)
    except ValueError as error:
        return f"none: {error}"
    if library is None:
        return f"reference (torch expressions): {_why_not.get(device.type, 'a graph is being captured')}"
    return f"native: {library.path.name}, {library.build}"
