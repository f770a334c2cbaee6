"""The architectures that a strategy scores."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from nas.costs.limits import Infeasible
from nas.derive.argmax import Argmax
from nas.derive.base import Searched
from nas.genotype import Genotype, key_of
from nas.io.rng import derive_seed
from nas.supernet.structure import all_choices, draw_choices, find_rows

NUM_TRIES = 50
"""Largest number of draws for each requested architecture, since a distribution of low entropy repeats architectures."""
NUM_AT_ONCE = 100


def candidates(searched: Searched, num: int) -> list[dict[str, Any]]:
    """All allowed architectures if the space has at most `num`; otherwise up to `num` different allowed architectures.

    The most probable architecture comes first, then earlier most probable architectures, then draws from the probabilities. A distribution
    of low entropy gives fewer than `num`.

    Raises:
        Infeasible: No architecture is within the limits and passes the space's check.
    """
    if searched.supernet.num_architectures <= num:
        allowed = [choices for choices in all_choices(searched.supernet.network) if searched.allows(choices)]
        if not allowed:
            raise Infeasible("no architecture keeps every limit")
        return allowed
    first = Argmax().genotype(searched).choices
    earlier = filter(searched.allows, searched.seen)
    found = {key_of(choices): dict(choices) for choices in (first, *earlier)}
    draws = draw(searched, random.Random(derive_seed(searched.seed, "derive")))
    for _ in range(NUM_TRIES * num):
        if len(found) >= num:
            break
        choices = next(draws)
        if searched.allows(choices):
            found.setdefault(key_of(choices), choices)
    return list(found.values())[:num]


def draw(searched: Searched, source: random.Random) -> Iterator[dict[str, Any]]:
    """An endless stream of architectures drawn from the distribution, allowed or not."""
    supernet, probabilities = searched.supernet, searched.probabilities()
    if not supernet.distribution.is_factorised:
        generator = torch.Generator(supernet.alpha.device).manual_seed(source.getrandbits(60))
        while True:
            for path in supernet.joint.draw_paths(NUM_AT_ONCE, generator).tolist():
                yield dict(supernet.genotype_of(path, probabilities).choices)
    places = find_rows(supernet.network)
    while True:
        yield pruned(searched, draw_choices(places, source, probabilities))


def pruned(searched: Searched, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The active choices among `choices`."""
    return dict(searched.supernet.prune(Genotype(choices), searched.probabilities()).choices)
