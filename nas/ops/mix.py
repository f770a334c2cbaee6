"""The weighted K-ary sum at the heart of every choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.ops.fused import fused_mix, fused_sum, layout_of


def mix(outputs: Sequence[Tensor], weights: Tensor, *, prescaled: Sequence[int] = (), dim: int = 0) -> Tensor:
    """``sum_k weights[..., k] * outputs[k]``, in this order.

    Native kernels (``kernels/``) compute the sum in one pass and all gradients in another. They support eager mode, one dtype (float32,
    float64, float16, bfloat16), one device, one dense memory order, and at most 64 outputs. All other cases, and all cases under
    ``NAS_KERNELS=reference``, use :func:`mix_reference`. In float32 and float64 both give the same bits on a CPU, except for the gradient
    of the weights, which is summed in another order. In the 16-bit types the kernels round once instead of after every term.

    Args:
        outputs: K tensors of one shape.
        weights: One weight for each output, or for each output and sample (or index of dimension `dim`).
        prescaled: Positions of outputs that are added without a weight.
        dim: The dimension of the outputs that matches the first dimension of two-dimensional weights.

    Shape:
        - outputs: K times (*), or (B, *) when the weights are per sample
        - weights: (K - len(prescaled),) or (B, K - len(prescaled))
        - result: like one output

    Raises:
        ValueError: The number of weights does not fit, or NAS_KERNELS names a missing backend.
    """
    if not torch.compiler.is_compiling():
        layout = layout_of(outputs, weights, dim, len(prescaled))
        if layout is not None:
            return fused_mix(outputs, weights, layout, tuple(prescaled))
    return mix_reference(outputs, weights, prescaled=prescaled, dim=dim)


def mix_reference(outputs: Sequence[Tensor], weights: Tensor, *, prescaled: Sequence[int] = (), dim: int = 0) -> Tensor:
    """:func:`mix` in plain torch operations; it works everywhere."""
    total: Tensor | None = None
    if len(outputs) - len(prescaled) != weights.shape[-1]:
        raise ValueError(f"{weights.shape[-1]} weights for {len(outputs) - len(prescaled)} outputs")
    rest = iter(weights.unbind(-1))
    for k, output in enumerate(outputs):
        term = output if k in prescaled else _term(output, next(rest), dim)
        total = term if total is None else total + term
    assert total is not None, "mix needs at least one output"
    return total


def sum_outputs(outputs: Sequence[Tensor]) -> Tensor:
    """``sum_k outputs[k]``, by native kernels under the conditions of :func:`mix`.

    Args:
        outputs: K tensors of one shape.
    """
    # the sum of two outputs is one operation in any case
    if len(outputs) > 2 and not torch.compiler.is_compiling():
        layout = layout_of(outputs, None, 0)
        if layout is not None:
            return fused_sum(outputs, layout)
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total


def weighted(output: Tensor, weight: Tensor) -> Tensor:
    """One term of :func:`mix`: `output` scaled by a 0-d or (B,) `weight`.

    The CPU kernels give every gradient the same bits as :func:`mix` of all outputs, so that recomputing candidates one by one changes no
    gradient.
    """
    return mix([output], weight[..., None])


def _term(output: Tensor, weight: Tensor, dim: int) -> Tensor:
    if weight.dim() == 1:
        if len(weight) != output.shape[dim]:
            raise ValueError(f"op weights of {len(weight)} samples do not fit outputs of {output.shape[dim]}")
        shape = [1] * output.dim()
        shape[dim] = -1
        weight = weight.view(shape)
    return output * weight.to(output.dtype)
