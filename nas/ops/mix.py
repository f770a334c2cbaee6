"""The weighted K-ary sum at the heart of every choice."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def mix(outputs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``sum_k weights[..., k] * outputs[k]``, the reference expression.

    Args:
        outputs: K tensors of one shape.
        weights: One weight a candidate, or one a candidate and sample.

    Shape:
        - outputs: K times (*), or (B, *) when the weights are per sample
        - weights: (K,) or (B, K)
        - result: like one output
    """
    total: Tensor | None = None
    for output, weight in zip(outputs, weights.unbind(-1), strict=True):
        term = weighted(output, weight)
        total = term if total is None else total + term
    assert total is not None, "mix needs at least one output"
    return total


def weighted(output: Tensor, weight: Tensor) -> Tensor:
    """One term of :func:`mix`: `output` scaled by a 0-d or (B,) `weight`, in the output's dtype."""
    if weight.dim() == 1:
        if len(weight) != len(output):
            raise ValueError(f"op weights of {len(weight)} samples do not fit outputs of {len(output)}")
        weight = weight.view(-1, *[1] * (output.dim() - 1))
    return output * weight.to(output.dtype)
