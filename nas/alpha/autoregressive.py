"""A distribution in which the logits of a choice see the candidates of earlier choices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas.alpha.base import Alpha
from nas.relaxations.base import Tau


class Autoregressive(Alpha):
    """Logits of a choice: its row of alpha, plus a learned logit for each pair with a candidate of an earlier choice.

    The choices are in the order in which the network makes them. Gumbel-Softmax draws choice by choice; a soft or straight-through sample
    passes gradients to the logits of earlier choices.

    Source: Larochelle and Murray 2011, "The Neural Autoregressive Distribution Estimator", without hidden units.
    """

    def build(self, num_candidates: Sequence[int]) -> None:
        number, width = len(num_candidates), max(num_candidates, default=0)
        self.pairs = nn.Parameter(
            torch.zeros(number, number, width, width)
        )  # [later, earlier, earlier's, later's candidate]

    def conditional(self, rows: Tensor, row: int, earlier: Tensor, tau: Tau) -> Tensor:
        return rows[row] + torch.einsum("...jk,jkl->...l", earlier, self.pairs[row, :row])
