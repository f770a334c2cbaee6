"""Rows of alpha that are not drawn: the rows of :func:`nas.inputs`, whose weights are a deterministic function of alpha."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas.relaxations import Softmax


class InputRows(nn.Module):
    """Fills in the rows that are not drawn: rows of which a genotype has more than one label (`num_chosen`)."""

    num_summed: Tensor
    learned: Tensor

    def __init__(self, num_chosen: Sequence[int], learned: Sequence[bool]) -> None:
        super().__init__()
        self.has_any = any(number > 1 for number in num_chosen)
        self.all_learned = all(learned)
        summed = torch.tensor([number if number > 1 else 0 for number in num_chosen], dtype=torch.int64)
        self.register_buffer("num_summed", summed[:, None], persistent=False)
        self.register_buffer("learned", torch.tensor(learned, dtype=torch.bool)[:, None], persistent=False)

    def fill(self, weights: Tensor, alpha: Tensor, mask: Tensor) -> Tensor:
        """Op weights with the rows that are not drawn: k times the softmax of alpha, or 1 for rows that are not learned.

        Shape:
            - weights, result: (E, K), or (E, B, K) per sample
            - alpha, mask: (E, K)
        """
        if not self.has_any:
            return weights
        summed = self.num_summed * Softmax().probabilities(alpha, mask)
        rows = torch.where(self.learned, summed, mask.to(summed.dtype))
        is_drawn = self.num_summed == 0
        if weights.dim() == 3:
            rows, is_drawn = rows[:, None], is_drawn[:, None]
        return torch.where(is_drawn, weights, rows.to(weights.dtype))

    def only_drawn(self, alpha: Tensor, others: Tensor) -> Tensor:
        """The drawn rows of `alpha`, and the other rows of `others`."""
        return torch.where(self.num_summed == 0, alpha, others) if self.has_any else alpha

    def without_frozen(self, alpha: Tensor) -> Tensor:
        """Alpha without a gradient to frozen rows."""
        return alpha if self.all_learned else torch.where(self.learned, alpha, alpha.detach())
