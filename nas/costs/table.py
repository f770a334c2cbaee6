"""A cost table: the cost of a genotype as a sum of terms over its choices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.supernet.base import Condition

MAX_ASSIGNMENTS = 4096


@dataclass(frozen=True)
class Term:
    """A number that counts if a condition holds.

    Attributes:
        condition: Choice name -> labels; every choice must have one of its labels. For an input choice: the label that must be chosen.
        value: The number.
    """

    condition: Condition
    value: float

    def holds(self, choices: Mapping[str, Any]) -> bool:
        """Whether the term counts for a genotype's choices."""
        return all(
            name in choices and not labels.isdisjoint(_labels(choices[name])) for name, labels in self.condition.items()
        )


def _labels(value: Any) -> Iterable[str]:
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class CostTable:
    """One cost of a space: a fixed part of all architectures, and terms that depend on one or several choices."""

    name: str
    fixed: float
    terms: tuple[Term, ...]

    def of(self, choices: Mapping[str, Any]) -> float:
        """The cost of a genotype's choices."""
        return self.fixed + sum(term.value for term in self.terms if term.holds(choices))

    def largest(self, name: str, label: str) -> float:
        """The largest contribution of a label over all labels of the other choices."""
        terms = [term for term in self.terms if label in term.condition.get(name, ())]
        others: dict[str, set[str]] = {}
        for term in terms:
            for other, labels in term.condition.items():
                if other != name:
                    others.setdefault(other, set()).update(labels)
        if math.prod(len(labels) for labels in others.values()) > MAX_ASSIGNMENTS:
            return sum(max(0.0, term.value) for term in terms)  # an upper bound
        return max(
            sum(term.value for term in terms if term.holds({**dict(zip(others, chosen, strict=True)), name: label}))
            for chosen in itertools.product(*[sorted(labels) for labels in others.values()])
        )

    def to_json(self) -> dict[str, Any]:
        """The table as plain values."""
        terms = [[{name: sorted(labels) for name, labels in t.condition.items()}, t.value] for t in self.terms]
        return {"name": self.name, "fixed": self.fixed, "terms": terms}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CostTable:
        """The table from the plain values of :meth:`to_json`."""
        terms = [
            Term({name: frozenset(labels) for name, labels in condition.items()}, float(value))
            for condition, value in data["terms"]
        ]
        return cls(str(data["name"]), float(data["fixed"]), tuple(terms))


def merged(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Adds up the terms with equal conditions, and drops the terms with value 0."""
    sums: dict[Any, float] = {}
    for term in terms:
        key = tuple(sorted((name, tuple(sorted(labels))) for name, labels in term.condition.items()))
        sums[key] = sums.get(key, 0.0) + term.value
    return tuple(
        Term({name: frozenset(labels) for name, labels in key}, value) for key, value in sums.items() if value != 0
    )


class ExpectedCost:
    """The expected cost for independent draws of the choices, differentiable in the probabilities.

    With one-hot probabilities, it equals the cost in the table. An input of an input choice has a probability of k times its share of the
    row, at most 1.

    Args:
        table: The cost.
        choices: Choice name -> labels, in the order of the rows of the probabilities.
        num_chosen: Choice name -> k, for input choices.
    """

    def __init__(self, table: CostTable, choices: Mapping[str, Sequence[str]], num_chosen: Mapping[str, int]) -> None:
        self.table = table
        width = max((len(labels) for labels in choices.values()), default=0)
        rows = {name: row for row, name in enumerate(choices)}
        known: dict[tuple[str, frozenset[str]], int] = {}
        terms = [
            [known.setdefault((name, labels), len(known)) for name, labels in term.condition.items()]
            for term in table.terms
        ]
        conditions = torch.zeros(len(known), len(choices) * width)
        for (name, labels), i in known.items():
            for label in labels:
                conditions[i, rows[name] * width + choices[name].index(label)] = 1.0
        depth = max((len(term) for term in terms), default=0)
        self._conditions = conditions
        self._index = torch.tensor([term + [len(known)] * (depth - len(term)) for term in terms], dtype=torch.int64)
        self._values = torch.tensor([term.value for term in table.terms], dtype=torch.float64)
        self._k = torch.tensor([num_chosen.get(name, 1) for name in choices])[:, None]

    def __call__(self, probabilities: Tensor) -> Tensor:
        """The expected cost, 0-d, float64.

        Shape:
            - probabilities: (E, K), padded columns 0
        """
        if not self.table.terms:
            return probabilities.new_full((), self.table.fixed, dtype=torch.float64)
        self._move(probabilities.device)
        share = probabilities.double()
        several = self._k * share / share.sum(-1, keepdim=True).clamp_min(1e-30)
        chosen = torch.where(self._k > 1, several.clamp_max(1.0), share)
        true = self._conditions.to(chosen.dtype) @ chosen.flatten()
        true = torch.cat([true, true.new_ones(1)])
        return self.table.fixed + (true[self._index].prod(-1) * self._values).sum()

    def _move(self, device: torch.device) -> None:
        if self._values.device != device:
            for name in ("_conditions", "_index", "_values", "_k"):
                setattr(self, name, getattr(self, name).to(device))
