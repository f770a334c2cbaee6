"""The interface of derive strategies."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nas.costs.limits import Limit, passes
from nas.genotype import Genotype, key_of
from nas.relaxations import Relaxation
from nas.supernet.search_space import SearchSpace
from nas.supernet.supernet import Supernet
from nas.tasks import Task

_CPU = torch.device("cpu")

NUM_LISTED = 10
"""Number of architectures in a summary."""
NUM_MERGED = 1_000
"""Number of paths whose probabilities are added up if they are the same architecture."""

Batches = Callable[[], Iterable[Any]]
"""Starts a pass over (inputs, target) batches."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The result of a search, as the input of a derive strategy. It does not contain the test set.

    Attributes:
        supernet: The searched supernet; strategies do not change it.
        relaxation: The relaxation of the search; it defines the probabilities.
        space: Discretizes probabilities, and checks genotypes.
        limits: Costs with their maximum.
        task: Loss and metrics; None if there are no data.
        weight_batches: Batches of the train split.
        arch_batches: Batches of the arch split.
        device: Device of the computation.
        seed: The run's seed.
        seen: Architectures that were the most probable one earlier in the search.
        on_progress: Called with the number of scored architectures and the number of architectures to score.
        kept: What a strategy keeps with the run for the same weights: text -> values of JSON.
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
    kept: MutableMapping[str, Any] = field(default_factory=dict)

    def allows(self, choices: Mapping[str, Any]) -> bool:
        """Whether an architecture is within every limit and passes the space's check."""
        kept = all(limit.table.of(choices) <= limit.max for limit in self.limits)
        return kept and passes(self.space.check_genotype, choices)

    def probabilities(self) -> dict[str, dict[str, float]]:
        """Choice name -> label -> probability."""
        return self.supernet.probabilities(self.relaxation)


class DeriveStrategy(ABC):
    """Chooses the architecture at the end of a search.

    Attributes:
        needs_alpha: Whether the strategy needs a trained alpha, because it uses only the probabilities.
    """

    needs_alpha: bool = True

    @abstractmethod
    def genotype(self, searched: Searched) -> Genotype:
        """The chosen architecture, with active choices only, within every limit.

        Args:
            searched: The result of a search.
        """

    def check(self, searched: Searched) -> None:  # noqa: B027  (most strategies work with every network)
        """Raises ValueError if the strategy cannot work. Called before a search.

        Args:
            searched: The state before the search.
        """


def discretized(supernet: Supernet, relaxation: Relaxation, space: SearchSpace) -> Genotype:
    """The space's discretization of the probabilities, with active choices only, before limits and the space's check."""
    if not supernet.distribution.is_factorised:
        return supernet.discretize(relaxation)
    probabilities = supernet.probabilities(relaxation)
    return supernet.prune(space.discretize(probabilities), probabilities)


def distribution_of(supernet: Supernet, choices: Mapping[str, Any]) -> dict[str, Any] | None:
    """The distribution over architectures that alpha describes; None without choices, or where choices have several labels.

    Keys: ``entropy`` in nats and ``uniform_entropy`` of equally probable paths; ``exact``: whether the numbers come from all paths, and not
    from draws; ``probability`` of the architecture `choices`; ``most_probable``: choices and probability of up to `NUM_LISTED`
    architectures; ``says_nothing``: whether the entropy is within 1 % of that of equally probable paths.
    """
    if not supernet.choices or supernet.input_rows.has_any:
        return None
    joint = supernet.joint
    paths, probabilities = joint.most_probable(NUM_MERGED)
    known: dict[str, float] = {}
    rows = supernet.probabilities()
    for path, probability in zip(paths.tolist(), probabilities.tolist(), strict=True):
        key = key_of(supernet.genotype_of(path, rows).choices)
        known[key] = known.get(key, 0.0) + probability
    listed = sorted(known, key=known.__getitem__, reverse=True)[:NUM_LISTED]
    entropy, is_exact = joint.entropy()
    largest = sum(math.log(len(labels)) for labels in supernet.choices.values())
    return {
        "entropy": entropy,
        "uniform_entropy": largest,
        "exact": is_exact,
        "probability": known.get(key_of(choices)),
        "most_probable": [{"choices": json.loads(key), "probability": known[key]} for key in listed],
        "says_nothing": entropy > 0.99 * largest,
    }


def runner_up(searched: Searched, distribution: Mapping[str, Any] | None, found: Genotype) -> Mapping[str, Any] | None:
    """The most probable other architecture that is allowed; None if none of the listed ones is, or they say nothing."""
    if distribution is None or distribution["says_nothing"]:
        return None
    others = (entry["choices"] for entry in distribution["most_probable"] if entry["choices"] != found.choices)
    return next(filter(searched.allows, others), None)
