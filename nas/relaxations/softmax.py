"""The noise-free relaxation."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.relaxations.base import Relaxation, Tau, masked_logits, tempered_softmax


class Softmax(Relaxation):
    """``softmax(logits / tau)``: every candidate runs, nothing is sampled.

    Source: Liu et al. 2019, "DARTS: Differentiable Architecture Search" (tau = 1 there).
    """

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        return tempered_softmax(masked_logits(logits, mask), tau)
