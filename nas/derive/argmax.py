"""The most probable architecture."""

from __future__ import annotations

from nas.alpha.joint import MAX_JOINT
from nas.costs.limits import Infeasible, most_probable, passes
from nas.derive.base import DeriveStrategy, Searched, discretized
from nas.genotype import Genotype


class Argmax(DeriveStrategy):
    """The most probable candidate op of every choice, or the result of the space's own ``discretize``.

    If there are limits, or if this architecture fails the space's check (for example with a dead cell), the strategy takes the most
    probable architecture that is within the limits and passes the check. Its active labels have the largest product of probabilities.
    """

    def genotype(self, searched: Searched) -> Genotype:
        supernet, space = searched.supernet, searched.space
        if not supernet.distribution.is_factorised:
            return self._mode(searched)
        if not searched.limits:
            found = discretized(supernet, searched.relaxation, space)
            if passes(space.check_genotype, found.choices):
                return found
        return Genotype(
            most_probable(supernet.network, searched.probabilities(), searched.limits, space.check_genotype)
        )

    def _mode(self, searched: Searched) -> Genotype:
        """The most probable allowed architecture of a distribution with dependent choices."""
        supernet, probabilities = searched.supernet, searched.probabilities()
        paths, _ = supernet.joint.most_probable(MAX_JOINT)
        for path in paths.tolist():
            found = supernet.genotype_of(path, probabilities)
            if searched.allows(found.choices):
                return found
        raise Infeasible(
            f"none of the {len(paths)} most probable architectures keeps every limit and passes the space's check"
        )
