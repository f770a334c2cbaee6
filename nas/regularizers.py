"""Terms added to the loss of the arch parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Regularizer(ABC):
    """A term of the loss that the arch parameters descend."""

    @abstractmethod
    def penalty(self, probabilities: Tensor, mask: Tensor) -> Tensor:
        """The 0-d term, weight included.

        Shape:
            - probabilities: (E, K), differentiable in alpha
            - mask: (E, K) bool, False in padded columns
        """


class Entropy(Regularizer):
    """``weight`` times the mean entropy of the choices, in nats: above 0 it drives choices to a decision, below 0 to exploration."""

    def __init__(self, weight: float) -> None:
        """Sets the term.

        Args:
            weight: Factor of the mean entropy; either sign.
        """
        self.weight = weight

    def penalty(self, probabilities: Tensor, mask: Tensor) -> Tensor:
        return self.weight * entropy(probabilities).mean()


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy along the last axis in nats; zeros contribute nothing, to value and gradient.

    Shape:
        - probabilities: (..., K)
        - result: (...)
    """
    positive = probabilities > 0
    safe = torch.where(positive, probabilities, torch.ones_like(probabilities))
    return -(safe * safe.log()).sum(-1)
