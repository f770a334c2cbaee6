"""Tabulates a cost over the choices of a supernet, so that the cost of an architecture is available without building it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from nas.costs.cut_terms import cut_terms, cut_value, rest_terms
from nas.costs.functions import CostFunction, num_params
from nas.costs.module_key import call_key, module_key
from nas.costs.parts import Call, Part, conditions_of, network_parts, record_calls
from nas.costs.table import CostTable, Term, merged
from nas.supernet.base import ChoiceModule, Condition
from nas.supernet.cuts import Cuts, cuts_of
from nas.supernet.gate import KEEP
from nas.supernet.narrowing import cuts_by
from nas.supernet.places import held_by
from nas.supernet.structure import active_choices, conjunction, derive, find_rows, first_choices, random_choices
from nas.supernet.supernet import Supernet

NUM_REFERENCES = 5
NUM_CHECKS = 8


class CostModel:
    """Tabulates any cost of a supernet, from the recorded calls of its parts.

    The fixed part of a table contains operations between the parts, for example in a forward method of the user. A table is therefore exact
    if these operations and the shapes of the parts' inputs depend on the choices only through widths.

    Args:
        supernet: The supernet; it is not changed.
        inputs: The arguments of the supernet for ONE sample, on its device.

    Raises:
        ValueError: One module is used under two different choices.
    """

    def __init__(self, supernet: Supernet, inputs: Sequence[Any]) -> None:
        self.supernet = supernet
        self.inputs = tuple(inputs)
        self.parts = network_parts(supernet.network)
        self.everything = [inner for part in self.parts for inner in part.everything()]
        known: dict[int, Part] = {}
        for part in self.everything:
            other = known.setdefault(id(part.module), part)
            if other.condition != part.condition:
                raise ValueError(
                    f"costs cannot be tabulated: one module is used under two choices, at {other.path!r} and {part.path!r}"
                )
        self.calls = record_calls(supernet, [part.module for part in self.everything], self.inputs)

    def table(self, name: str, cost: CostFunction, *, measured: bool = False) -> CostTable:
        """The table of one cost. With `measured`, the cost is noisy, and the fixed part is the mean over several architectures.

        Raises:
            ValueError: The cost of a gated module is not linear in the number of its elements, or the costs of parts do not add up.
        """
        terms = _Tabulation(cost, self.calls, measured).terms(self.parts, seen=set())
        if not measured:
            terms += self._rest(cost, terms)
        fixed = []
        for seed in range(NUM_REFERENCES if measured else 1):
            choices = random_choices(self.supernet.network, seed)
            total = float(cost(self.supernet.derive(choices), self.inputs))
            fixed.append(total - sum(term.value for term in terms if term.holds(choices)))
        table = CostTable(name, sum(fixed) / len(fixed), merged(terms))
        if not measured:
            self._verify(table, cost)
        return table

    def _rest(self, cost: CostFunction, terms: Sequence[Term]) -> list[Term]:
        """The terms of what depends on cuts outside the parts."""
        network = self.supernet.network
        held: dict[str, list[nn.Module]] = {}
        for module in network.modules():
            for name in cuts.groups() if (cuts := cuts_of(module)) is not None else ():
                held.setdefault(name, []).append(module)
        if not held:
            return []
        others = {name: KEEP if KEEP in labels else labels[0] for name, labels in self.supernet.choices.items()}

        def rest(choices: Mapping[str, Any]) -> float:
            active = active_choices(network, {**others, **choices})
            return float(cost(self.supernet.derive(active), self.inputs)) - sum(
                t.value for t in terms if t.holds(active)
            )

        conditions = conditions_of(network)
        found = []
        for condition, value in rest_terms(network, rest):
            outer: Condition = {}
            for name in condition:
                above = [conditions.get(id(module), {}) for module in held[name]]
                if all(each == above[0] for each in above):
                    outer = {**outer, **above[0]}
            found.append(Term({**outer, **condition}, value))
        return found

    def _verify(self, table: CostTable, cost: CostFunction) -> None:
        for seed in range(NUM_CHECKS):
            choices = random_choices(self.supernet.network, seed + 1)
            counted = float(cost(self.supernet.derive(choices), self.inputs))
            if not math.isclose(table.of(choices), counted, rel_tol=1e-9, abs_tol=1e-9):
                raise ValueError(
                    f"{table.name} does not add up over candidates: the table gives {table.of(choices):,.6g} and the network has "
                    f"{counted:,.6g} for {choices}. Operations outside candidates must not depend on choices, and candidates must not "
                    "share weights"
                )

    def shapes(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """(choice, label) -> shape of the candidate's output for one sample, if the output is one tensor."""
        result: dict[tuple[str, str], tuple[int, ...]] = {}
        for part in self.everything:
            calls = self.calls[id(part.module)]
            if calls and calls[0].shape is not None:
                for name, labels in part.condition.items():
                    for label in labels:
                        result.setdefault((name, label), calls[0].shape)
        return result


class _Tabulation:
    """One cost of many parts; the cost of equal parts is computed once."""

    def __init__(self, cost: CostFunction, calls: Mapping[int, Sequence[Call]], measured: bool) -> None:
        self.cost = cost
        self.calls = calls
        self.measured = measured
        self.known: dict[Any, float] = {}

    def terms(self, parts: Sequence[Part], seen: set[int]) -> list[Term]:
        """The terms of the parts that depend on choices."""
        terms: list[Term] = []
        for part in parts:
            if id(part.module) in seen or not (part.condition or part.decides):
                continue
            seen.add(id(part.module))
            calls: Sequence[Call] = self.calls[id(part.module)]
            if self.cost is num_params:  # parameters count once, even if the module is called several times
                calls = calls[:1] or [Call((), {}, None)]
            if part.inside:
                terms += self._whole(part, calls, self.terms(part.inside, seen))
            else:
                terms += [Term(condition, value) for call in calls for condition, value in self._alone(part, call)]
        return terms

    def _whole(self, part: Part, calls: Sequence[Call], inside: list[Term]) -> list[Term]:
        """The terms of a candidate that contains choices: the terms of its parts, and a term for its remaining cost."""
        choices = first_choices(part.module)
        choices |= {name: min(labels) for name, labels in part.condition.items()}
        plain = derive(part.module, choices)
        rest = sum(self._value(plain, call) for call in calls)
        rest -= sum(term.value for term in inside if term.holds(choices))
        return [*inside, Term(part.condition, rest)]

    def _alone(self, part: Part, call: Call) -> Iterator[tuple[Condition, float]]:
        module = part.module
        if (cuts := cuts_of(module)) is not None:
            for extra, value in cut_terms(
                module, cuts, call.args, lambda m, args: self._value(m, call._replace(args=args))
            ):
                if (both := conjunction(part.condition, extra)) is not None:
                    yield both, value
            return
        numbers: dict[str, tuple[str, ...]] = {}
        for inner in module.modules():
            numbers |= {name: labels for held in held_by(inner) for name, labels in held.rows().items()}
        for labels in itertools.product(*numbers.values()):
            choices = dict(zip(numbers, labels, strict=True))
            condition = conjunction(part.condition, {name: frozenset({label}) for name, label in choices.items()})
            if condition is None:
                continue
            if isinstance(module, ChoiceModule):
                of = partial(self._made, call, choices)
                for extra, value in module.cost_terms(of, call.args, exact=not self.measured):
                    yield {**condition, **extra}, value
            elif choices:
                yield condition, self._cut(module, call, choices)
            else:
                yield condition, self._value(module, call)

    def _cut(self, module: nn.Module, call: Call, choices: Mapping[str, Any]) -> float:
        """The cost of a layer that holds widths or values."""
        return cut_value(
            derive(module, choices),
            cuts_by(module) or Cuts({}),
            lambda axis: len(axis.kept(choices)),
            call.args,
            lambda m, args: self._value(m, call._replace(args=args)),
        )

    def _made(self, call: Call, choices: Mapping[str, str], module: nn.Module, args: tuple[Any, ...]) -> float:
        """The cost of a module from ``cost_terms``, with the given widths inside."""
        return self._value(derive(module, choices), call._replace(args=args))

    def _value(self, module: nn.Module, call: Call) -> float:
        key = (module_key(module), call_key(call.args), call_key(call.kwargs))
        if key not in self.known:
            bound = _Bound(module, call.kwargs) if call.kwargs else module
            value = float(self.cost(bound, call.args))
            if not math.isfinite(value):
                raise ValueError(f"a cost must be a finite number, got {value} for a {type(module).__name__}")
            self.known[key] = value
        return self.known[key]


class _Bound(nn.Module):
    """A module with fixed keyword arguments."""

    def __init__(self, module: nn.Module, kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.kwargs = kwargs

    def forward(self, *args: Any) -> Any:
        return self.module(*args, **self.kwargs)


def num_chosen(supernet: Supernet) -> dict[str, int]:
    """Choice name -> number of chosen labels, for choices with more than one."""
    return {name: place.num_chosen for name, place in find_rows(supernet.network).items() if place.num_chosen > 1}
