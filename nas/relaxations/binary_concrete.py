"""The binary Concrete relaxation of two candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.relaxations.base import (
    Relaxation,
    Tau,
    at_least_float32,
    checked_tau,
    exponential_noise,
    masked_logits,
    replace_gradient,
)


class BinaryConcrete(Relaxation):
    """For two-way choices and gates only: ``sigmoid((log-odds + logistic noise) / tau)``, from one draw for each choice.

    The distribution is that of ``GumbelSoftmax`` with two candidates: the difference of two Gumbel variables is logistic.

    Args:
        hard: One-hot in the forward pass, with the gradient of the soft weights (straight-through).

    Source: Maddison et al. 2017, "The Concrete Distribution", appendix B.
    """

    def __init__(self, hard: bool = False) -> None:
        super().__init__()
        self.hard = hard

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        if logits.shape[-1] != 2 or (mask is not None and not bool(mask.all())):
            raise ValueError("BinaryConcrete takes choices of two candidates only; use GumbelSoftmax")
        logits = masked_logits(logits, mask)
        second = binary_concrete(logits[..., 1] - logits[..., 0], tau, hard=self.hard, generator=generator)
        return torch.stack([1 - second, second], dim=-1)


def binary_concrete(
    log_odds: Tensor, tau: Tau, *, hard: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """A relaxed Bernoulli sample: ``sigmoid((log_odds + logistic noise) / tau)``. It exceeds 0.5 with probability sigmoid(log_odds).

    Args:
        log_odds: Log-odds of the value 1.
        tau: Temperature, above 0.
        hard: 0 or 1 in the forward pass, with the gradient of the soft sample.
        generator: Source of the noise.

    Shape:
        - log_odds, result: (*)
    """
    log_odds = at_least_float32(log_odds)
    logistic = exponential_noise(log_odds, generator).log_() - exponential_noise(log_odds, generator).log_()
    soft = torch.sigmoid((log_odds + logistic) / checked_tau(tau))
    return replace_gradient((soft > 0.5).to(soft.dtype), soft) if hard else soft
