"""The integer linear program over the labels of a network's choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from torch import nn

from nas.costs.table import CostTable
from nas.supernet.base import ChoiceModule, Condition
from nas.supernet.places import outermost
from nas.supernet.structure import conjunction, find_rows

MAX_CUTS = 20_000
LARGEST = 1e6  # scale of coefficients: the solver's absolute tolerance of 1e-6 is then 1e-12 of the largest coefficient

Check = Callable[[Mapping[str, Any]], None]


class Limit(NamedTuple):
    """A cost and its largest allowed value."""

    table: CostTable
    max: float


Linear = dict[int, float]
_ONE = -1  # the constant in a linear expression


class Program:
    """The linear program: a binary variable for each label of each choice. Inactive choices have no chosen label."""

    def __init__(self, network: nn.Module) -> None:
        self.places = find_rows(network)
        self.labels: dict[tuple[str, str], int] = {}
        self.rows: list[tuple[Linear, float, float]] = []
        self.num_variables = 0
        self.conjunctions: dict[Any, Linear] = {}
        for name, place in self.places.items():
            for label in place.derivable(place.rows()[name]):
                self.labels[name, label] = self._variable()
        occurrences: dict[str, list[Condition]] = {name: [] for name in self.places}
        _collect(network, {}, occurrences)
        # an active choice implies its condition if there is only one way to reach the choice
        self.implied = {name: found[0] if len(found) == 1 else {} for name, found in occurrences.items()}
        for place in {id(place): place for place in self.places.values()}.values():
            self._activate(place, occurrences)

    def _variable(self) -> int:
        self.num_variables += 1
        return self.num_variables - 1

    def _row(self, expression: Linear, low: float, high: float) -> None:
        constant = expression.pop(_ONE, 0.0)
        self.rows.append((expression, low - constant, high - constant))

    def _activate(self, place: ChoiceModule, occurrences: Mapping[str, Sequence[Condition]]) -> None:
        """Requires the right number of chosen labels if the choice is active, and no chosen label otherwise."""
        for name in place.rows():
            active = self._any([self.all_of(condition) for condition in occurrences[name]])
            labels = {self.labels[name, label]: 1.0 for label in place.derivable(place.rows()[name])}
            self._row(_add(labels, active, -place.num_chosen), 0, 0)
        if needed := place.at_least_one():
            self._row(_add({self.labels[pair]: 1.0 for pair in needed}, active, -1), 0, math.inf)

    def _any(self, each: Sequence[Linear]) -> Linear:
        """An expression that is 1 if at least one of the given expressions is 1."""
        if {_ONE: 1.0} in each:
            return {_ONE: 1.0}
        if len(each) == 1:
            return each[0]
        variable = self._variable()
        total: Linear = {}
        for expression in each:
            self._row(_add({variable: 1.0}, expression, -1), 0, math.inf)
            _add(total, expression)
        self._row(_add({variable: 1.0}, total, -1), -math.inf, 0)
        return {variable: 1.0}

    def all_of(self, condition: Condition) -> Linear:
        """An expression that is 1 if the whole condition holds, otherwise 0."""
        condition = self._reduced(condition)
        key = tuple(sorted((name, tuple(sorted(labels))) for name, labels in condition.items()))
        if key not in self.conjunctions:
            each = [
                {self.labels[name, label]: 1.0 for label in labels if (name, label) in self.labels}
                for name, labels in condition.items()
            ]
            self.conjunctions[key] = self._all(each)
        return dict(self.conjunctions[key])

    def _reduced(self, condition: Condition) -> Condition:
        """The condition without the parts that other parts imply."""
        result = dict(condition)
        for name in condition:
            for other, labels in self.implied.get(name, {}).items():
                if other in result and labels <= result[other]:
                    del result[other]
        return result

    def _all(self, each: Sequence[Linear]) -> Linear:
        """An expression that is 1 if all given expressions are 1."""
        if len(each) < 2:
            return each[0] if each else {_ONE: 1.0}
        variable = self._variable()
        total: Linear = {}
        for expression in each:
            self._row(_add({variable: -1.0}, expression), 0, math.inf)
            _add(total, expression)
        self._row(_add({variable: 1.0}, total, -1), 1.0 - len(each), math.inf)
        return {variable: 1.0}

    def cost(self, table: CostTable) -> Linear:
        """The cost without its fixed part."""
        total: Linear = {}
        for term in table.terms:
            _add(total, self.all_of(term.condition), term.value)
        return total

    def _require(self, limit: Limit) -> None:
        """Adds a limit, which the solver keeps up to its tolerance."""
        total = self.cost(limit.table)
        scale = max([1e-30, *map(abs, total.values())]) / LARGEST
        scaled = {variable: value / scale for variable, value in total.items()}
        self._row(scaled, -math.inf, (limit.max - limit.table.fixed) / scale)

    def _tighten(self) -> None:
        """Adds rows that all whole solutions keep, which bring the solver's bounds close to the answer.

        If conditions exclude each other, at most one of them is true, and only if a label that all of them name is chosen.
        """
        families: dict[tuple[str, frozenset[str], tuple[str, ...]], list[tuple[Condition, Linear]]] = {}
        for key, expression in self.conjunctions.items():
            condition = {name: frozenset(labels) for name, labels in key}
            if len(key) > 1 and all(self.places[name].num_chosen == 1 for name in condition):
                for name, labels in condition.items():
                    families.setdefault((name, labels, tuple(condition)), []).append((condition, expression))
        for (name, labels, _), members in families.items():
            conditions = [condition for condition, _ in members]
            if all(conjunction(*pair) is None for pair in combinations(conditions, 2)):
                total: Linear = {}
                for _, expression in members:
                    _add(total, expression)
                self._row(_add(total, self.all_of({name: labels}), -1), -math.inf, 0)

    def solve(self, objective: Linear, limits: Sequence[Limit], check: Check | None) -> dict[str, Any] | None:
        """The best choices. A solution that slightly breaks a limit or fails the check is excluded, and the solver runs again."""
        for limit in limits:
            self._require(limit)
        self._tighten()
        objective = {variable: value for variable, value in objective.items() if variable != _ONE}
        largest = max([1e-30, *map(abs, objective.values())]) / LARGEST
        for _ in range(MAX_CUTS):
            values = self._solution({variable: value / largest for variable, value in objective.items()})
            if values is None:
                return None
            chosen = [key for key, variable in self.labels.items() if values[variable] > 0.5]
            found = self._choices(chosen)
            if all(limit.table.of(found) <= limit.max for limit in limits) and passes(check, found):
                return found
            if not chosen:
                return None
            self.rows.append(({self.labels[key]: 1.0 for key in chosen}, -math.inf, len(chosen) - 1.0))
        raise RuntimeError(f"the space allows none of the {MAX_CUTS} tried architectures")

    def _choices(self, chosen: Sequence[tuple[str, str]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, place in self.places.items():
            labels = sorted(label for other, label in chosen if other == name)
            if labels:
                found[name] = labels if place.num_chosen > 1 else labels[0]
        return found

    def _solution(self, objective: Linear) -> np.ndarray | None:
        if not self.num_variables:
            return np.zeros(0)
        c = np.zeros(self.num_variables)
        for variable, value in objective.items():
            c[variable] += value
        entries = [(i, variable, value) for i, (row, _, _) in enumerate(self.rows) for variable, value in row.items()]
        rows, columns, values = zip(*entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(self.rows), self.num_variables))
        result = milp(
            c,
            integrality=np.ones(self.num_variables),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, [low for _, low, _ in self.rows], [high for _, _, high in self.rows]),
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            assert result.status == 2, result.message
            return None
        return np.asarray(result.x)


def _add(total: Linear, other: Linear, factor: float = 1.0) -> Linear:
    """Adds `factor` times `other` to `total` in place."""
    for variable, value in other.items():
        total[variable] = total.get(variable, 0.0) + factor * value
    return total


def passes(check: Check | None, choices: Mapping[str, Any]) -> bool:
    """Whether a check accepts an architecture."""
    if check is None:
        return True
    try:
        check(choices)
    except ValueError:
        return False
    return True


def _collect(module: nn.Module, condition: Condition, occurrences: dict[str, list[Condition]]) -> None:
    """Adds the different conditions under which each choice inside `module` is active."""
    for place in outermost([module]):
        for name in place.rows():
            if condition not in occurrences[name]:
                occurrences[name].append(condition)
        for extra, part in place.parts():
            both = conjunction(condition, extra)
            if both is not None:
                _collect(part, both, occurrences)
