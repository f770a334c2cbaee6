"""Finds the most probable and the cheapest architecture within limits exactly, by an integer linear program over the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nas.costs.program import Check, Program
from nas.costs.program import Limit as Limit
from nas.costs.program import passes as passes
from nas.costs.table import CostTable

SMALLEST = 1e-30  # lower bound of probabilities, so that their logarithms are finite


class Infeasible(ValueError):
    """No architecture keeps the limits."""


def most_probable(
    network: nn.Module,
    probabilities: Mapping[str, Mapping[str, float]],
    limits: Sequence[Limit] = (),
    check: Check | None = None,
) -> dict[str, Any]:
    """The architecture within all limits whose active labels have the largest product of probabilities.

    Args:
        network: A network with choices.
        probabilities: Choice name -> label -> probability.
        limits: Limits on costs in the tables; they are kept exactly.
        check: Raises ValueError for forbidden architectures, for example with a dead cell.

    Raises:
        Infeasible: No architecture is allowed; the message names the smallest cost.
    """
    program = Program(network)
    objective = {
        variable: -math.log(max(probabilities[name][label], SMALLEST))
        for (name, label), variable in program.labels.items()
        if program.places[name].learned
    }
    found = program.solve(objective, limits, check)
    if found is None:
        raise Infeasible(_why(network, limits, check))
    return found


def cheapest(
    network: nn.Module, table: CostTable, limits: Sequence[Limit] = (), check: Check | None = None
) -> dict[str, Any]:
    """The active choices of the cheapest architecture within all limits.

    Raises:
        Infeasible: No architecture is allowed; the message names the smallest cost.
    """
    found = _cheapest(network, table, limits, check)
    if found is None:
        raise Infeasible(_why(network, limits, check))
    return found


def _cheapest(
    network: nn.Module, table: CostTable, limits: Sequence[Limit], check: Check | None
) -> dict[str, Any] | None:
    program = Program(network)
    return program.solve(program.cost(table), limits, check)


def most_expensive(network: nn.Module, table: CostTable) -> dict[str, Any]:
    """The active choices of the most expensive architecture."""
    program = Program(network)
    found = program.solve({variable: -value for variable, value in program.cost(table).items()}, (), None)
    assert found is not None
    return found


def _why(network: nn.Module, limits: Sequence[Limit], check: Check | None) -> str:
    if _cheapest(network, CostTable("nothing", 0.0, ()), (), check) is None:
        return "the space's check_genotype refuses every architecture"
    for limit in limits:
        least = limit.table.of(cheapest(network, limit.table, (), check))
        if least > limit.max:
            return f"no architecture has {limit.table.name} of at most {format_cost(limit.max)}; the smallest is {format_cost(least)}"
    first, others = limits[0], limits[1:]
    found = _cheapest(network, first.table, others, check)
    if found is None:
        names = " and ".join(limit.table.name for limit in limits)
        return f"no architecture keeps the limits of {names} together, although each limit alone can be kept"
    kept = " and ".join(f"{limit.table.name} of at most {format_cost(limit.max)}" for limit in others)
    return (
        f"no architecture has {first.table.name} of at most {format_cost(first.max)} with {kept}; "
        f"the smallest possible value is {format_cost(first.table.of(found))}"
    )


def format_cost(value: float) -> str:
    """A cost as text: whole numbers with separators, others with four significant digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
