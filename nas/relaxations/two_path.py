"""Two sampled candidates for each choice."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.relaxations.base import OpWeights, Relaxation, Tau, checked_tau, gumbel_noise, masked_logits


class TwoPath(Relaxation):
    """Draws two candidates without replacement and mixes them by ``softmax(logits / tau)`` of the pair. Other candidates do not run.

    After an arch step, unsampled logits return to their previous values, and the pair keeps its total probability.

    Source: Cai et al. 2019, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", section 3.2.1.

    Deviation: ProxylessNAS runs both candidates and selects one output by a second draw. Here the output is the expectation over that
    draw: both outputs, mixed by its probabilities.
    """

    num_active = 2

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        logits = masked_logits(logits, mask)
        drawn = (logits.detach() + gumbel_noise(logits, generator)).topk(2, dim=-1).indices
        pair = torch.softmax(logits.gather(-1, drawn) / checked_tau(tau), dim=-1)
        # never 0: a weight of 0 marks a candidate that does not run
        pair = pair.clamp_min(torch.finfo(pair.dtype).tiny)
        return torch.zeros_like(logits).scatter(-1, drawn, pair)

    @torch.no_grad()
    def after_arch_step(self, alpha: Tensor, sample: OpWeights) -> None:
        if sample.logits is None or sample.active is None:
            return
        before, active = sample.logits, sample.active.to(alpha.device)
        pair = alpha.gather(-1, active)
        shift = torch.logsumexp(before.gather(-1, active), -1, keepdim=True) - torch.logsumexp(pair, -1, keepdim=True)
        alpha.copy_(before.scatter(-1, active, pair + shift))
