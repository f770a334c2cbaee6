"""Paths that train the supernet's weights: while alpha is frozen, or drawn from the distribution that it describes."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

from nas.alpha import Joint
from nas.io.rng import derive_seed


class Paths(ABC):
    """Base class of path samplers. A path is a pure function of the seed and the path's number, and perhaps of alpha.

    Attributes:
        follows_alpha: Whether the paths come from the distribution that is learned; such paths train the weights after the warm-up too.
    """

    follows_alpha = False

    @abstractmethod
    def candidates(self, sizes: Sequence[int], index: int, seed: int) -> list[int]:
        """The candidates of one path.

        Args:
            sizes: Number of candidates of each choice.
            index: Number of earlier paths.
            seed: The run's seed.

        Returns:
            The index of one candidate of each choice.
        """

    def path(self, joint: Joint, index: int, num_paths: int, seed: int) -> list[int]:
        """The same for a step of `num_paths` paths; by default, the distribution that is learned does not matter.

        Args:
            joint: The distribution at its temperature.
            index: Number of earlier paths.
            num_paths: Number of paths of a step.
            seed: The run's seed.
        """
        return self.candidates(joint.num_candidates, index, seed)


class Uniform(Paths):
    """Selects each candidate of each choice with equal probability, independently.

    Source: Guo et al. 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling".
    """

    def candidates(self, sizes: Sequence[int], index: int, seed: int) -> list[int]:
        source = random.Random(derive_seed(seed, "paths", index))
        return [source.randrange(size) for size in sizes]


class Fair(Paths):
    """Selects each of a choice's K candidates exactly once in every K paths, so that all candidates are trained equally often.

    Source: Chu et al. 2021, "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search", strict fairness.

    Deviation: FairNAS takes one optimizer step for K paths of the same batch. Here ``num_paths`` of the search module sets the number of
    paths in one step, and each path has its own part of the batch.
    """

    def candidates(self, sizes: Sequence[int], index: int, seed: int) -> list[int]:
        chosen = []
        for row, size in enumerate(sizes):
            turn, position = divmod(index, size)
            order = list(range(size))
            random.Random(derive_seed(seed, "fair paths", row, turn)).shuffle(order)
            chosen.append(order[position])
        return chosen


class Stratified(Paths):
    """Draws the paths of a step together, from the learned distribution at tau: each choice's numbers are stratified over the paths.

    Each path alone is an exact sample. While alpha is at rest, all candidates are equally probable, and K paths run each of K candidates
    exactly once (strict fairness, as in :class:`Fair`); as tau falls, the paths concentrate on probable architectures.

    Source: Owen 2013, "Monte Carlo theory, methods and examples", chapter 10 (Latin hypercube sampling).
    """

    follows_alpha = True

    def candidates(self, sizes: Sequence[int], index: int, seed: int) -> list[int]:
        return [
            int(uniform * size) for uniform, size in zip(self._uniforms(len(sizes), index, 1, seed), sizes, strict=True)
        ]

    def path(self, joint: Joint, index: int, num_paths: int, seed: int) -> list[int]:
        return joint.path_at(self._uniforms(len(joint.rows), index, num_paths, seed))

    def _uniforms(self, num_choices: int, index: int, num_paths: int, seed: int) -> list[float]:
        """A number in [0, 1) for each choice; those of the paths of a step lie in different n-ths of the interval."""
        step, place = divmod(index, num_paths)
        result = []
        for row in range(num_choices):
            order = list(range(num_paths))
            random.Random(derive_seed(seed, "strata", row, step)).shuffle(order)
            result.append(
                (order[place] + random.Random(derive_seed(seed, "strata", row, step, place)).random()) / num_paths
            )
        return result
