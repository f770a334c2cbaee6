"""The most probable architecture."""

from __future__ import annotations

from nas.costs.limits import most_probable, passes
from nas.derive.base import DeriveStrategy, Searched, discretized
from nas.genotype import Genotype


class Argmax(DeriveStrategy):
    """The most probable candidate of every choice, or what the space's own ``discretize`` says.

    Where there are limits, or that architecture makes no sense (a dead cell), it is the most probable one among those that keep the limits
    and make sense: the one whose active choices' probabilities have the largest product.
    """

    def genotype(self, searched: Searched) -> Genotype:
        supernet, space = searched.supernet, searched.space
        if not searched.limits:
            found = discretized(supernet, searched.relaxation, space)
            if passes(space.check_genotype, found.choices):
                return found
        return Genotype(
            most_probable(supernet.network, searched.probabilities(), searched.limits, space.check_genotype)
        )
