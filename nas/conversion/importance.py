"""The order in which units are dropped: the least important first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.conversion.groups import Solution
from nas.supernet.modules import noting_calls

Score = Callable[[nn.Module, str, Tensor], Tensor | None]
"""Numbers of the elements of a parameter, from its layer, its name and itself; None if the parameter does not count."""


def _magnitude(layer: nn.Module, name: str, parameter: Tensor) -> Tensor | None:
    return parameter.detach().square()


def _batch_norm(layer: nn.Module, name: str, parameter: Tensor) -> Tensor | None:
    return parameter.detach().abs() if isinstance(layer, _BatchNorm) and name == "weight" else None


def _taylor(layer: nn.Module, name: str, parameter: Tensor) -> Tensor | None:
    return None if parameter.grad is None else parameter.detach() * parameter.grad


ORDERS: Mapping[str, Score | None] = {
    "magnitude": _magnitude,
    "batch_norm": _batch_norm,
    "taylor": _taylor,
    "activation": None,
    "first": None,
}
"""Name -> what is summed over the parameters of a unit.

* ``magnitude``: the squares of all its weights, in all layers that make or read it (Fang et al. 2023, "DepGraph").
* ``batch_norm``: the absolute scales of its batch norms (Liu et al. 2017, "Network Slimming").
* ``taylor``: the absolute value of the sum of weight times gradient, of gradients that the model holds (Molchanov et al. 2019).
* ``activation``: the mean absolute output of the layers that make it, on the example inputs.
* ``first``: nothing; the last units are dropped first.
"""


def sort_units(
    model: nn.Module, solution: Solution, order: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Sorts the units of all groups, the most important first.

    Raises:
        ValueError: An unknown order, or one that has no number for this model.
    """
    if order not in ORDERS:
        raise ValueError(f"nas.convert: order {order!r} is none of {', '.join(ORDERS)}")
    if order == "first" or not solution.groups:
        return
    totals = np.zeros(int(solution.roots.max(initial=0)) + 1)
    seen = np.zeros(len(totals), dtype=bool)
    found = (
        _of_outputs(model, solution, args, kwargs) if order == "activation" else _of_parameters(model, solution, order)
    )
    for sets, numbers in found:
        np.add.at(totals, sets, numbers)
        seen[sets] = True
    if not seen[1:].any():
        needs = {"taylor": "gradients: call backward() on a loss before", "batch_norm": "batch norms with a scale"}
        raise ValueError(f"nas.convert: order {order!r} needs {needs.get(order, 'outputs of layers')}")
    totals = np.abs(totals)
    for group in solution.groups:
        group.units.sort(key=lambda unit: -totals[unit])


def _of_parameters(model: nn.Module, solution: Solution, order: str) -> list[tuple[np.ndarray, np.ndarray]]:
    score = ORDERS[order]
    assert score is not None
    modules, found = dict(model.named_modules()), []
    for name, parameter in model.named_parameters():
        path, _, own = name.rpartition(".")
        numbers = score(modules[path], own, parameter)
        if numbers is None:
            continue
        for dim, sets in solution.along(name).items():
            rest = [d for d in range(numbers.dim()) if d != dim]
            found.append((sets, (numbers.sum(rest) if rest else numbers).double().cpu().numpy()))
    return found


def _of_outputs(
    model: nn.Module, solution: Solution, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[np.ndarray, np.ndarray]]:
    modules, found = dict(model.named_modules()), []
    made: dict[nn.Module, list[np.ndarray]] = {}
    for path, tensor, dim in dict.fromkeys(solution.known.produced):
        if (sets := solution.along(tensor).get(dim)) is not None:
            made.setdefault(modules[path], []).append(sets)

    def note(module: nn.Module, _: Any, __: Any, output: Tensor) -> None:
        for sets in made[module]:
            place = next((d for d in (-1, 1) if output.dim() > 1 and output.shape[d] == len(sets)), None)
            if place is not None:
                mean = output.abs().movedim(place, -1).flatten(0, -2).mean(0)
                found.append((sets, mean.double().cpu().numpy()))

    with torch.no_grad(), noting_calls(made, note):
        model(*args, **kwargs)
    return found
