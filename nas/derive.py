"""Strategies that turn a searched supernet into a genotype."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from nas.genotype import Genotype
from nas.limits import Limit, most_probable
from nas.relaxations import Relaxation
from nas.search_space import SearchSpace
from nas.supernet import Supernet


class DeriveStrategy(ABC):
    """Picks the architecture at the end of a search."""

    @abstractmethod
    def genotype(
        self, supernet: Supernet, relaxation: Relaxation, space: SearchSpace, limits: Sequence[Limit] = ()
    ) -> Genotype:
        """The chosen architecture, active choices only, within every limit.

        Args:
            supernet: After the search.
            relaxation: The one it was searched with; says what the probabilities are.
            space: Says how probabilities are discretised, and which architectures make no sense.
            limits: Costs, and the most that they may be.
        """


def discretized(supernet: Supernet, relaxation: Relaxation, space: SearchSpace) -> Genotype:
    """What the space makes of the present probabilities: active choices only, but of any cost, and it may make no sense."""
    probabilities = supernet.probabilities(relaxation)
    return supernet.prune(space.discretize(probabilities), probabilities)


class Argmax(DeriveStrategy):
    """The most probable candidate of every choice, or what the space's own ``discretize`` says.

    Where there are limits, or that architecture makes no sense (a dead cell), it is the most probable one among those that keep the limits
    and make sense: the one whose active choices' probabilities have the largest product.
    """

    def genotype(
        self, supernet: Supernet, relaxation: Relaxation, space: SearchSpace, limits: Sequence[Limit] = ()
    ) -> Genotype:
        if not limits:
            found = discretized(supernet, relaxation, space)
            try:
                space.check_genotype(found.choices)
            except ValueError:
                pass
            else:
                return found
        return Genotype(
            most_probable(supernet.network, supernet.probabilities(relaxation), limits, space.check_genotype)
        )
