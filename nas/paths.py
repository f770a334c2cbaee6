"""Which path trains the supernet's weights in each step while alpha rests."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

from nas.io.rng import derive_seed


class Paths(ABC):
    """One candidate of every choice for each step; a pure function of the seed and the path's number."""

    @abstractmethod
    def candidates(self, sizes: Sequence[int], index: int, seed: int) -> list[int]:
        """The candidates of one path.

        Args:
            sizes: Number of candidates of each choice.
            index: How many paths came before.
            seed: The run's seed.

        Returns:
            A candidate of each choice, from 0.
        """


class Uniform(Paths):
    """Each candidate of each choice with equal probability, all independent.

    Source: Guo et al. 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling".
    """

    def candidates(self, sizes: Sequence[int], index: int, seed: int) -> list[int]:
        source = random.Random(derive_seed(seed, "paths", index))
        return [source.randrange(size) for size in sizes]


class Fair(Paths):
    """Of every K paths, each of a choice's K candidates is in exactly one: all are trained equally often.

    Source: Chu et al. 2021, "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search", strict fairness.

    Deviation: FairNAS takes one optimizer step for K paths of the same batch. Here how many paths share a step is ``num_paths`` of the
    search module, each with its own part of the batch.
    """

    def candidates(self, sizes: Sequence[int], index: int, seed: int) -> list[int]:
        chosen = []
        for row, size in enumerate(sizes):
            turn, position = divmod(index, size)
            order = list(range(size))
            random.Random(derive_seed(seed, "fair paths", row, turn)).shuffle(order)
            chosen.append(order[position])
        return chosen
