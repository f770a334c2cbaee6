"""One sampled candidate for each choice."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.relaxations.base import Relaxation, Tau, gumbel_softmax, straight_through


class SampledPath(Relaxation):
    """Straight-through Gumbel-Softmax; only the sampled candidate runs: the time and memory of one path.

    The gradient of the sampled candidate's weight is ``<dy, y>``; the other candidates did not run, and their weights have no gradient.
    The gradient reaches alpha through the Jacobian of the soft weights.

    This is the gradient of scaling the sampled output. A normalization directly after the choice undoes any scale, so alpha learns
    nothing. Put norms inside the candidates, add several outputs before the norm, or use ``GumbelSoftmax(hard=True)``.

    Source: Dong and Yang 2019, "Searching for a Robust Neural Architecture in Four GPU Hours" (GDAS).

    Deviation: GDAS's code multiplies the output of the sampled candidate by its weight and *adds* the weights of the others, which gives
    these weights a gradient as if their outputs were all ones. Here these weights get no gradient.
    """

    num_active = 1

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        return straight_through(gumbel_softmax(logits, tau, mask, generator))
