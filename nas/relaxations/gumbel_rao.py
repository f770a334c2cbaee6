"""Rao-Blackwellised straight-through Gumbel-Softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.relaxations.base import (
    Relaxation,
    Tau,
    exponential_noise,
    gumbel_max,
    masked_logits,
    one_hot,
    replace_gradient,
    tempered_softmax,
)


class GumbelRao(Relaxation):
    """Straight-through Gumbel-Softmax whose gradient is averaged over the Gumbel noise that leads to the same sample.

    The expectation is that of ``GumbelSoftmax(hard=True)``; the variance is never larger. The network runs once.

    Args:
        num_samples: Number of soft samples in the average, at least 1; 1 is plain straight-through.

    Source: Paulus et al. 2021, "Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient Estimator".
    """

    def __init__(self, num_samples: int = 10) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"GumbelRao: num_samples must be at least 1, got {num_samples}")
        self.num_samples = num_samples

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        logits = masked_logits(logits, mask)
        index = gumbel_max(logits, generator)
        with torch.no_grad():
            noisy = conditional_gumbels(logits, index, self.num_samples, generator)
        shifted = noisy + (logits - logits.detach())  # the noise is held fixed while the logits are differentiated
        soft = tempered_softmax(shifted, tau).mean(0)
        return replace_gradient(one_hot(index, logits), soft)


def conditional_gumbels(logits: Tensor, index: Tensor, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Draws of ``logits + Gumbel noise`` given that the entry at `index` is the largest.

    With standard exponentials E: at the index ``-log(E_i) + log Z``, elsewhere ``-log(E_j exp(-logit_j) + E_i / Z)``.

    Shape:
        - logits: (..., K)
        - index: (..., 1)
        - result: (num_samples, ..., K)
    """
    log_noise = exponential_noise(logits.expand(num_samples, *logits.shape), generator).log_()
    log_z = torch.logsumexp(logits, dim=-1, keepdim=True)
    index = index.expand(num_samples, *index.shape)
    top = log_noise.gather(-1, index) - log_z
    others = -torch.logaddexp(log_noise - logits, top.expand_as(log_noise))
    return others.scatter(-1, index, -top)
