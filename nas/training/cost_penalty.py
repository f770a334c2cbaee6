"""The term of the loss that keeps a search near a cost limit."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.costs.table import ExpectedCost
from nas.regularizers import ArchState, Regularizer


class CostPenalty(Regularizer):
    """``weight * max(0, expected cost / limit - 1)``: pulls the expected cost below the limit, which is above 0.

    The penalty only steers the search. The derive step ensures that the derived architecture satisfies the limit.
    """

    def __init__(self, expected: ExpectedCost, limit: float, weight: float = 1.0) -> None:
        self.expected = expected
        self.limit = limit
        self.weight = weight

    def penalty(self, state: ArchState) -> Tensor:
        excess = self.expected(state.probabilities) / self.limit - 1
        return (self.weight * torch.relu(excess)).to(state.alpha.dtype)
