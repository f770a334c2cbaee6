"""The Dirichlet relaxation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.relaxations.base import Relaxation, Tau, checked_tau, exponential_noise, masked_logits

MIN_CONCENTRATION = 1e-6


class Dirichlet(Relaxation):
    """Draws op weights from a Dirichlet distribution with concentration ``elu(logits) + 1``; every candidate runs.

    Exploration depends only on the concentration: tau is not used. Probabilities are the distribution's mean.

    Source: Chen et al. 2021, "DrNAS: Dirichlet Neural Architecture Search".

    Deviation: Gamma variables with a concentration below 1 are drawn in log space as ``Gamma(a + 1) U^(1/a)`` and normalized by a softmax,
    so that no row underflows to 0 / 0. Concentrations are at least 1e-6.
    """

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        checked_tau(tau)
        logits = masked_logits(logits, mask)
        concentration = _concentration(logits)
        small = concentration < 1
        gammas = torch._standard_gamma(torch.where(small, concentration + 1, concentration), generator=generator)
        log_gammas = gammas.clamp_min(torch.finfo(gammas.dtype).tiny).log()
        boost = -exponential_noise(logits, generator) / concentration  # log(U) / a
        log_gammas = torch.where(small, log_gammas + boost, log_gammas)
        if mask is not None:
            log_gammas = log_gammas.masked_fill(~mask, -torch.inf)
        return torch.softmax(log_gammas, dim=-1)

    def probabilities(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        logits = masked_logits(logits, mask)
        concentration = _concentration(logits)
        if mask is not None:
            concentration = concentration.masked_fill(~mask, 0.0)
        return concentration / concentration.sum(-1, keepdim=True)


def _concentration(logits: Tensor) -> Tensor:
    return (F.elu(logits) + 1).clamp_min(MIN_CONCENTRATION)
