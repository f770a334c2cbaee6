"""Evolution over a trained supernet."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from nas.derive.base import DeriveStrategy, Searched
from nas.derive.inherited import InheritedScore
from nas.derive.pool import candidates, pruned
from nas.genotype import Genotype, key_of
from nas.io.rng import derive_seed
from nas.supernet.base import ChoiceModule
from nas.supernet.structure import draw_choices, find_rows

NUM_TRIES = 100
"""The evolution ends after this number of consecutive children that are known or not allowed."""


class Evolution(DeriveStrategy):
    """Evolves architectures that have a low loss on the arch split with inherited weights.

    The first generation is drawn from the learned distribution. The parents are the best architectures so far. Half of the
    children come from crossover, half from mutation.

    Args:
        num: Total number of architectures to score.
        population: Size of the first generation.
        num_parents: Number of parents.
        mutation: Probability that a mutation redraws a choice, in (0, 1].
        refit_head: Refit the head for each architecture; the last layer must be linear.
        num_batches: Batches of each split to evaluate; null: all.

    Raises:
        ValueError: A number out of range.

    Source: Guo et al. 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling", algorithm 1.
    """

    needs_alpha = False

    def __init__(
        self,
        num: int = 256,
        population: int = 32,
        num_parents: int = 8,
        mutation: float = 0.1,
        refit_head: bool = False,
        num_batches: int | None = None,
    ) -> None:
        if not 1 <= num_parents <= population <= num:
            raise ValueError(f"expected 1 <= num_parents <= population <= num, got {num_parents}, {population}, {num}")
        if not 0.0 < mutation <= 1.0:
            raise ValueError(f"mutation must lie between 0 and 1, got {mutation}")
        self.num = num
        self.population = population
        self.num_parents = num_parents
        self.mutation = mutation
        self.refit_head = refit_head
        self.num_batches = num_batches

    def genotype(self, searched: Searched) -> Genotype:
        score = InheritedScore(searched, refit_head=self.refit_head, num_batches=self.num_batches)
        source = random.Random(derive_seed(searched.seed, "evolution"))
        known: dict[str, tuple[float, dict[str, Any]]] = {}
        for choices in candidates(searched, self.population)[: self.population]:
            known[key_of(choices)] = (score(choices), choices)
            searched.on_progress(len(known), self.num)
        places = find_rows(searched.supernet.network)
        misses = 0
        while len(known) < self.num and misses < NUM_TRIES:
            best = sorted(known.values(), key=lambda pair: -pair[0])[: self.num_parents]
            child = self._child(searched, places, [choices for _, choices in best], source)
            if key_of(child) in known or not searched.allows(child):
                misses += 1
                continue
            misses = 0
            known[key_of(child)] = (score(child), child)
            searched.on_progress(len(known), self.num)
        return Genotype(max(known.values(), key=lambda pair: pair[0])[1])

    def _child(
        self,
        searched: Searched,
        places: Mapping[str, ChoiceModule],
        parents: list[dict[str, Any]],
        source: random.Random,
    ) -> dict[str, Any]:
        genes = draw_choices(places, source, searched.probabilities())  # for choices that are inactive in the parents
        if source.random() < 0.5:
            mother, father = source.choice(parents), source.choice(parents)
            for name in genes:
                values = [parent[name] for parent in (mother, father) if name in parent]
                genes[name] = source.choice(values) if values else genes[name]
        else:
            parent = source.choice(parents)
            for name, value in parent.items():
                genes[name] = value if source.random() >= self.mutation else places[name].draw(name, source)
        return pruned(searched, genes)
