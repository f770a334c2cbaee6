"""Which architectures a strategy looks at."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from nas.costs.limits import Infeasible
from nas.derive.argmax import Argmax
from nas.derive.base import Searched
from nas.genotype import Genotype, key_of
from nas.io.rng import derive_seed
from nas.supernet.structure import all_choices, draw_choices, find_rows

NUM_TRIES = 50
"""Draws for each architecture that is wanted: a distribution that has settled gives the same ones again and again."""


def candidates(searched: Searched, num: int) -> list[dict[str, Any]]:
    """All architectures of a small space; of a larger one, `num` different ones.

    First the most probable one, then those that were it earlier, then what is drawn from the probabilities.

    Args:
        searched: The end of a search.
        num: How many at most; where the distribution has settled, fewer.

    Raises:
        Infeasible: None keeps the limits and makes sense.
    """
    if searched.supernet.num_architectures <= num:
        allowed = [choices for choices in all_choices(searched.supernet.network) if searched.allows(choices)]
        if not allowed:
            raise Infeasible("no architecture keeps every limit")
        return allowed
    found: dict[str, dict[str, Any]] = {}
    first = dict(Argmax().genotype(searched).choices)
    found[key_of(first)] = first
    found |= {key_of(choices): dict(choices) for choices in searched.seen if searched.allows(choices)}
    draws = draw(searched, random.Random(derive_seed(searched.seed, "derive")))
    for _ in range(NUM_TRIES * num):
        if len(found) >= num:
            break
        choices = next(draws)
        if searched.allows(choices):
            found.setdefault(key_of(choices), choices)
    return list(found.values())[:num]


def draw(searched: Searched, source: random.Random) -> Iterator[dict[str, Any]]:
    """Architectures drawn from the probabilities, also ones that are not allowed, without end."""
    probabilities, places = searched.probabilities(), find_rows(searched.supernet.network)
    while True:
        yield pruned(searched, draw_choices(places, source, probabilities))


def pruned(searched: Searched, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `choices` that are active."""
    return dict(searched.supernet.prune(Genotype(choices), searched.probabilities()).choices)
