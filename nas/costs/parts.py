"""The parts of a supernet whose costs are measured, and the calls of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas.io.rng import untouched_rng
from nas.relaxations import OpWeights
from nas.supernet.base import ChoiceModule, Condition
from nas.supernet.cuts import cuts_of
from nas.supernet.modules import eval_mode, noting_calls
from nas.supernet.places import decisions, places_of
from nas.supernet.structure import conjunction
from nas.supernet.supernet import Supernet
from nas.supernet.value import values_of


@dataclass(frozen=True)
class Part:
    """A module whose cost is measured as a whole.

    Attributes:
        path: The path of the module in the network.
        module: The module.
        condition: The labels under which the module runs.
        inside: The parts inside, if the module contains choices.
    """

    path: str
    module: nn.Module
    condition: Condition
    inside: tuple[Part, ...] = ()

    @property
    def decides(self) -> bool:
        """Whether the module contains choices."""
        return any(places_of(self.module))

    def everything(self) -> Iterator[Part]:
        """The part itself and all parts inside it."""
        yield self
        for part in self.inside:
            yield from part.everything()


class Call(NamedTuple):
    """One call of a module: its arguments, and the shape of its output (None if the output is not a tensor)."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...] | None


def network_parts(module: nn.Module, path: str = "", condition: Condition | None = None) -> list[Part]:
    """The parts of a network: the largest plain modules, layers with widths, gates, and candidates that contain choices."""
    condition = condition or {}
    if not any(places_of(module)):
        return [Part(path, module, condition)]
    if isinstance(module, ChoiceModule):
        if module.is_one_part:
            return [Part(path, module, condition)]
        names = {id(child): name for name, child in module.named_modules()}
        found = []
        for extra, candidate in module.parts():
            both = conjunction(condition, extra)
            if both is not None:
                where = f"{path}.{names[id(candidate)]}".strip(".")
                inside = network_parts(candidate, where, both)
                alone = len(inside) == 1 and inside[0].module is candidate
                found += inside if alone else [Part(where, candidate, both, tuple(inside))]
        return found
    children = list(module.named_children())
    below = [inner for inner in module.modules() if inner is not module]
    is_layer = cuts_of(module) is not None and not any(map(decisions, below))  # a norm that holds its activation
    holds_values = values_of(module) and not any(isinstance(inner, ChoiceModule) for inner in below)
    if not children or is_layer or holds_values:
        return [Part(path, module, condition)]
    return [part for name, child in children for part in network_parts(child, f"{path}.{name}".strip("."), condition)]


def conditions_of(network: nn.Module) -> dict[int, Condition]:
    """Id of a module inside candidates -> the condition under which it runs."""
    found: dict[int, Condition] = {}
    for place in places_of(network):
        for condition, part in place.parts():
            for module in part.modules():
                found[id(module)] = conjunction(found.get(id(module), {}), condition) or {}
    return found


@torch.no_grad()
def record_calls(supernet: Supernet, modules: Sequence[nn.Module], inputs: Sequence[Any]) -> dict[int, list[Call]]:
    """Module ID -> calls, recorded in one forward pass through every candidate in eval mode. The supernet does not change."""
    calls: dict[int, list[Call]] = {id(module): [] for module in modules}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls[id(module)].append(Call(args, kwargs, tuple(output.shape) if isinstance(output, Tensor) else None))

    weights = torch.full_like(supernet.alpha, 0.5, requires_grad=False)
    with untouched_rng(weights.device), eval_mode(supernet), noting_calls(modules, keep):
        supernet(*inputs, op_weights=OpWeights(weights, None))
    return calls
