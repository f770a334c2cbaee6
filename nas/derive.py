"""Strategies that turn a searched supernet into a genotype."""

from __future__ import annotations

from abc import ABC, abstractmethod

from nas.genotype import Genotype
from nas.relaxations import Relaxation
from nas.search_space import SearchSpace
from nas.supernet import Supernet


class DeriveStrategy(ABC):
    """Picks the architecture at the end of a search."""

    @abstractmethod
    def genotype(self, supernet: Supernet, relaxation: Relaxation, space: SearchSpace) -> Genotype:
        """The chosen architecture, active choices only.

        Args:
            supernet: After the search.
            relaxation: The one it was searched with; says what the probabilities are.
            space: Says how probabilities are discretised.
        """


class Argmax(DeriveStrategy):
    """The most probable candidate of every choice, or what the space's own ``discretize`` says."""

    def genotype(self, supernet: Supernet, relaxation: Relaxation, space: SearchSpace) -> Genotype:
        probabilities = supernet.probabilities(relaxation)
        return supernet.prune(space.discretize(probabilities), probabilities)
