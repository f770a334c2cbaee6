"""Paths that train the supernet's weights while alpha is frozen."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

from nas.io.rng import derive_seed


class Paths(ABC):
    """Base class of path samplers. A path is a pure function of the seed and the path's number."""

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
