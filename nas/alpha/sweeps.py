"""Sweeps over the choices of an undirected distribution that has too many paths to enumerate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.alpha.base import Undirected
from nas.relaxations.base import Tau, gumbel_max, masked_logits

NUM_SWEEPS = 20
"""Number of sweeps from equally probable candidates to the distribution at tau."""


@torch.no_grad()
def swept(
    kind: Undirected, rows: Tensor, mask: Tensor, tau: Tau, num: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Paths after sweeps of Gumbel-max at inverse temperatures that rise from 0 to 1 / tau, and their log weights.

    The mean of the exponential weights estimates, without bias, the mean of ``exp(logit / tau)`` over all paths.

    Source: Neal 2001, "Annealed importance sampling".

    Shape:
        - result: (num, E) int64 and (num,)
    """
    hot = torch.zeros(num, *rows.shape, dtype=rows.dtype, device=rows.device)
    paths = gumbel_max(masked_logits(torch.zeros_like(rows), mask).expand(num, -1, -1), generator)[..., 0]
    hot.scatter_(-1, paths[..., None], 1.0)
    weights = rows.new_zeros(num)
    for sweep in range(1, NUM_SWEEPS + 1):
        weights += kind.path_logits(rows, hot.argmax(-1)) / (NUM_SWEEPS * tau)
        for row in range(len(rows)):
            logits = masked_logits(kind.full_conditional(rows, row, hot), mask[row]) * (sweep / (NUM_SWEEPS * tau))
            hot[:, row].zero_().scatter_(-1, gumbel_max(logits, generator), 1.0)
    return hot.argmax(-1), weights


@torch.no_grad()
def improved(kind: Undirected, rows: Tensor, mask: Tensor, paths: Tensor) -> Tensor:
    """Each path after its choices took, one after the other, the candidate of the largest logit given all others.

    Source: Besag 1986, "On the Statistical Analysis of Dirty Pictures" (iterated conditional modes).

    Shape:
        - paths, result: (P, E) int64
    """
    hot = F.one_hot(paths, rows.shape[1]).to(rows.dtype)
    for _ in range(NUM_SWEEPS):
        for row in range(len(rows)):
            logits = masked_logits(kind.full_conditional(rows, row, hot), mask[row])
            hot[:, row].zero_().scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    return hot.argmax(-1)
