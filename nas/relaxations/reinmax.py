"""ReinMax: a second-order straight-through estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.relaxations.base import Relaxation, Tau, gumbel_max, masked_logits, one_hot, replace_gradient, tempered_softmax


class ReinMax(Relaxation):
    """A one-hot sample of ``softmax(logits)`` whose gradient is correct to second order (Heun's method).

    With D the sample, ``p0 = softmax(logits)``, ``p1 = (D + softmax(logits / tau)) / 2`` and ``J(p) = diag(p) - p p^T``, the gradient
    of the logits is ``(2 J(p1) - J(p0) / 2) dL/dD``. Tau does not affect the sample. At tau = 1 and for two candidates the gradient is
    exact in expectation for every quadratic function.

    Source: Liu et al. 2023, "Bridging Discrete and Backpropagation: Straight-Through and Beyond", algorithm 2.
    """

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        logits = masked_logits(logits, mask)
        sample = one_hot(gumbel_max(logits, generator), logits)
        with torch.no_grad():
            p0 = torch.softmax(logits, dim=-1)
            p1 = (sample + tempered_softmax(logits, tau)) / 2
        return replace_gradient(sample, 2 * _jacobian(p1, logits) - _jacobian(p0, logits) / 2)


def _jacobian(p: Tensor, logits: Tensor) -> Tensor:
    """``(diag(p) - p p^T) logits``: linear in the logits, so that its gradient is the symmetric matrix times the upstream gradient."""
    return p * (logits - (p * logits).sum(-1, keepdim=True))
