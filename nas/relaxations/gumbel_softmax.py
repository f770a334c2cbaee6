"""The Gumbel-Softmax relaxation, soft and straight-through."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.relaxations.base import Relaxation, Tau, gumbel_softmax, straight_through


class GumbelSoftmax(Relaxation):
    """``softmax((logits + Gumbel noise) / tau)``; every candidate runs.

    Args:
        hard: One-hot in the forward pass, with the gradient of the soft weights (straight-through).

    Source: Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax"; Maddison et al. 2017, "The Concrete Distribution".
    """

    def __init__(self, hard: bool = False) -> None:
        super().__init__()
        self.hard = hard

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        soft = gumbel_softmax(logits, tau, mask, generator)
        return straight_through(soft) if self.hard else soft
