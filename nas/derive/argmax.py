"""The most probable architecture."""

from __future__ import annotations

from nas.costs.limits import most_probable, passes
from nas.derive.base import DeriveStrategy, Searched, discretized
from nas.genotype import Genotype


class Argmax(DeriveStrategy):
    """The most probable candidate op of every choice, or the result of the space's own ``discretize``.

    If there are limits, or if this architecture fails the space's check (for example with a dead cell), the strategy takes the most
    probable architecture that is within the limits and passes the check. Its active labels have the largest product of probabilities.
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
