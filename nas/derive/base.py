"""What a derive strategy is given, and what it must say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nas.costs.limits import Limit, passes
from nas.genotype import Genotype
from nas.relaxations import Relaxation
from nas.supernet.search_space import SearchSpace
from nas.supernet.supernet import Supernet
from nas.tasks import Task

_CPU = torch.device("cpu")

Batches = Callable[[], Iterable[Any]]
"""Makes a pass over (inputs, target) batches."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The end of a search, as a derive strategy sees it. The test set is not in it.

    Attributes:
        supernet: After the search; a strategy leaves it as it is.
        relaxation: The one it was searched with; says what the probabilities are.
        space: Says how probabilities are discretised, and which architectures make no sense.
        limits: Costs, and the most that they may be.
        task: What is minimised and measured; None where a strategy may not look at data, as before a search.
        weight_batches: The weight half.
        arch_batches: The arch half.
        device: Where to compute.
        seed: The run's seed.
        seen: Architectures that were the most probable one at an earlier moment.
        on_progress: Hears of a strategy that takes long: how many architectures of how many are scored.
    """

    supernet: Supernet
    relaxation: Relaxation
    space: SearchSpace
    limits: Sequence[Limit] = ()
    task: Task | None = None
    weight_batches: Batches = tuple
    arch_batches: Batches = tuple
    device: torch.device = _CPU
    seed: int = 0
    seen: Sequence[Mapping[str, Any]] = ()
    on_progress: Callable[[int, int], None] = lambda done, total: None

    def allows(self, choices: Mapping[str, Any]) -> bool:
        """Whether an architecture keeps every limit and makes sense."""
        kept = all(limit.table.of(choices) <= limit.max for limit in self.limits)
        return kept and passes(self.space.check_genotype, choices)

    def probabilities(self) -> dict[str, dict[str, float]]:
        """Choice name -> label -> probability."""
        return self.supernet.probabilities(self.relaxation)


class DeriveStrategy(ABC):
    """Picks the architecture at the end of a search.

    Attributes:
        needs_alpha: Whether it goes by the probabilities alone, so that alpha must have been trained.
    """

    needs_alpha: bool = True

    @abstractmethod
    def genotype(self, searched: Searched) -> Genotype:
        """The chosen architecture, active choices only, within every limit.

        Args:
            searched: What is there to go by.
        """

    def check(self, searched: Searched) -> None:  # noqa: B027  (most strategies work with every network)
        """Raises ValueError where the strategy cannot work; called before a search.

        Args:
            searched: The same, before the search.
        """


def discretized(supernet: Supernet, relaxation: Relaxation, space: SearchSpace) -> Genotype:
    """What the space makes of the present probabilities: active choices only, but of any cost, and it may make no sense."""
    probabilities = supernet.probabilities(relaxation)
    return supernet.prune(space.discretize(probabilities), probabilities)
