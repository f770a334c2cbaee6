"""The share of skip connections in an architecture. Differentiable searches can collapse to skip connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nas.costs.limits import Limit
from nas.costs.table import CostTable, Term
from nas.genotype import labels_of
from nas.supernet.places import places_of
from nas.supernet.structure import find_choices

FEWEST = 4
"""Smallest number of choices with a skip candidate for which the share indicates a collapse; a single identity does not."""
ROUNDING = 1e-9  # tolerance for the sum of shares
LABELS = frozenset({"skip", "skip_connect", "identity"})
"""Labels of skip connections, including skip connections that change the shape."""


def skips_of(network: nn.Module) -> dict[str, frozenset[str]]:
    """Choice name -> labels of skip connections, for choices with a skip candidate."""
    found: dict[str, set[str]] = {}
    for place in places_of(network):
        for condition, op in place.parts() if place.num_chosen == 1 else ():
            for name, labels in condition.items():
                if len(labels) == 1 and (type(op) is nn.Identity or labels <= LABELS):
                    found.setdefault(name, set()).update(labels)
    return {name: frozenset(labels) for name, labels in found.items()}


def collapsed(skips: Mapping[str, frozenset[str]], choices: Mapping[str, Any], max_share: float) -> bool:
    """Whether the share of skip connections exceeds `max_share`; False with fewer than `FEWEST` choices with a skip candidate."""
    able = sum(name in skips for name in choices)
    return able >= FEWEST and skip_share(skips, choices) > max_share + ROUNDING


def skip_share(skips: Mapping[str, frozenset[str]], choices: Mapping[str, Any]) -> float:
    """The share of skip connections among the choices with a skip candidate; 0 if there are no such choices."""
    able = [name for name in choices if name in skips]
    return sum(not skips[name].isdisjoint(labels_of(choices[name])) for name in able) / len(able) if able else 0.0


def skip_limit(network: nn.Module, max_share: float) -> Limit:
    """A limit on the share of skip connections, which strategies apply like a limit on a cost.

    A skip connection adds 1 - `max_share`, and every other candidate of the same choices subtracts `max_share`. The sum is at most 0.
    """
    choices, skips = find_choices(network), skips_of(network)
    terms = [
        Term({name: frozenset({label})}, float(label in labels) - max_share)
        for name, labels in skips.items()
        for label in choices[name]
    ]
    return Limit(CostTable("the share of skip connections", 0.0, tuple(terms)), ROUNDING)
