"""How much of an architecture only passes its input on: the way in which differentiable searches collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nas.costs.limits import Limit
from nas.costs.table import CostTable, Term
from nas.genotype import labels_of
from nas.supernet.mixed_op import MixedOp

FEWEST = 4
"""Choices that could be skip connections, below which their share says nothing of a collapse: one activation may well be the identity."""
ROUNDING = 1e-9  # of the sum of shares
LABELS = frozenset({"skip", "skip_connect", "identity"})
"""Names that spaces give to skip connections, also where those must change the shape."""


def skips_of(network: nn.Module) -> dict[str, frozenset[str]]:
    """Choice name -> labels of candidates that are skip connections, for choices that have any."""
    result = {}
    for module in network.modules():
        if isinstance(module, MixedOp):
            pairs = zip(module.labels, module.candidates, strict=True)
            labels = frozenset(label for label, op in pairs if label in LABELS or type(op) is nn.Identity)
            if labels:
                result[module.name] = labels
    return result


def collapsed(skips: Mapping[str, frozenset[str]], choices: Mapping[str, Any], max_share: float) -> bool:
    """Whether more than the share of an architecture are skip connections, where there are enough choices to say so."""
    able = sum(name in skips for name in choices)
    return able >= FEWEST and skip_share(skips, choices) > max_share + ROUNDING


def skip_share(skips: Mapping[str, frozenset[str]], choices: Mapping[str, Any]) -> float:
    """The share of skip connections among the choices of an architecture that could be one; 0 where none could."""
    able = [name for name in choices if name in skips]
    return sum(not skips[name].isdisjoint(labels_of(choices[name])) for name in able) / len(able) if able else 0.0


def skip_limit(network: nn.Module, max_share: float) -> Limit:
    """At most so large a share of skip connections, as a limit that strategies keep like one of a cost.

    Each skip connection adds 1 - `max_share`, every other candidate in its place takes `max_share` away: the sum is at most 0.
    """
    terms = [
        Term({module.name: frozenset({label})}, float(label in skips) - max_share)
        for module in network.modules()
        if isinstance(module, MixedOp) and (skips := skips_of(module).get(module.name))
        for label in module.labels
    ]
    return Limit(CostTable("the share of skip connections", 0.0, merged_once(terms)), ROUNDING)


def merged_once(terms: list[Term]) -> tuple[Term, ...]:
    """Each condition once: a shared choice stands in several places, but is decided once."""
    return tuple({tuple(term.literals.items()): term for term in terms}.values())
