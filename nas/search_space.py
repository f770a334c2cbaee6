"""What a search space must say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import nn

from nas.genotype import Genotype
from nas.supernet import argmax_choices


class SearchSpace(ABC):
    """A family of networks, written as one network with choices in it."""

    @abstractmethod
    def network(self, stage: str = "search") -> nn.Module:
        """A freshly initialised network with choices (plain under :func:`nas.architecture`).

        Args:
            stage: ``"search"`` or ``"retrain"``; the retrained network may be larger.
        """

    def discretize(self, probabilities: Mapping[str, Mapping[str, float]]) -> Genotype:
        """Probabilities (choice name -> label -> probability) to a genotype; by default the most probable labels."""
        return Genotype(argmax_choices(probabilities))
