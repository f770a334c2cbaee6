"""Puts the cuts of groups into the layers of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.conversion.groups import Group, Solution
from nas.supernet.cuts import KEY, Axis, Cuts, Norm
from nas.supernet.masking import KEYWORD
from nas.supernet.modules import noting_calls
from nas.supernet.width import Width

Number = tuple[str, str, int]
"""A whole number that counts units: the path of a module, its attribute, and how much the number changes with a unit."""


def attach(
    network: nn.Module,
    solution: Solution,
    widths: Mapping[str, Width],
    numbers: Mapping[str, Sequence[Number]],
    shapes: Mapping[str, Sequence[int]],
) -> None:
    """Gives the layers of a network their cuts.

    Args:
        network: Changed in place.
        solution: The groups.
        widths: Name of a group -> its width; groups without one are left whole.
        numbers: Name of a group -> attributes that count its units.
        shapes: Path of a norm -> the shape of its input.
    """
    modules = dict(network.named_modules())
    place = Places(solution, widths)
    tensors: dict[str, dict[str, dict[int, Axis]]] = {}
    attributes: dict[str, dict[str, tuple[Width, int]]] = {}
    reads: dict[str, tuple[int, Axis]] = {}
    norms: dict[str, Norm] = {}
    known = solution.known
    uses = _uses(network)
    for tensor in {**known.axes, **known.elements}:
        for dim, sets in solution.along(tensor).items():
            if (axis := place.axis(sets)) is not None:
                for path, name in uses[tensor]:
                    tensors.setdefault(path, {}).setdefault(name, {})[dim] = axis
    for path, tensor, dim in known.reads:
        axis = tensors.get(path, {}).get(tensor.rpartition(".")[2], {}).get(dim)
        if axis is not None:
            rank = known.tensors[tensor].dim()
            reads[path] = (-1 if rank == 2 else 1 - rank, axis)
    for path, labels, is_centered in known.norms:
        if (axis := place.axis(solution.roots[labels[(0,) * (labels.dim() - 1)].numpy()])) is not None:
            if path not in shapes:
                raise ValueError(KEYWORD)
            shape = shapes[path]
            dim = -1 if shape[-1] == len(axis.owners) else 1 - len(shape)
            reads[path], norms[path] = (dim, axis), Norm(dim, is_centered)
    for name, entries in numbers.items():
        for path, key, step in entries if name in widths else ():
            attributes.setdefault(path, {})[key] = (widths[name], step)
    for path in {**tensors, **reads, **attributes}:
        cuts = Cuts(tensors.get(path, {}), reads.get(path), norms.get(path), attributes.get(path, {}))
        modules[path].__dict__[KEY] = cuts


def _uses(network: nn.Module) -> dict[str, list[tuple[str, str]]]:
    """Name of a parameter or buffer -> the layers that hold it, and its name in each; tied layers hold one parameter."""
    named = {
        name: tensor
        for kind in (network.named_parameters, network.named_buffers)
        for name, tensor in kind(remove_duplicate=False)
    }
    holders: dict[int, list[tuple[str, str]]] = {}
    for name, tensor in named.items():
        path, _, own = name.rpartition(".")
        holders.setdefault(id(tensor), []).append((path, own))
    return {name: holders[id(tensor)] for name, tensor in named.items()}


class Places:
    """The group and the rank in it of each set of labels."""

    def __init__(self, solution: Solution, widths: Mapping[str, Width]) -> None:
        """Takes the groups that have a width."""
        self._widths = [widths[group.name] for group in solution.groups if group.name in widths]
        self._owners = np.full(int(solution.roots.max(initial=0)) + 1, -1)
        self._ranks = np.zeros_like(self._owners)
        for i, group in enumerate(group for group in solution.groups if group.name in widths):
            self._owners[group.units] = i
            self._ranks[group.units] = np.arange(len(group.units))

    def axis(self, sets: np.ndarray) -> Axis | None:
        """The channels of a dimension from their sets of labels; None if all of them are always kept."""
        owners = self._owners[sets]
        groups = np.unique(owners[owners >= 0])
        if not len(groups):
            return None
        numbers = np.where(owners < 0, -1, np.searchsorted(groups, owners))
        return Axis(
            tuple(self._widths[i] for i in groups), torch.from_numpy(numbers), torch.from_numpy(self._ranks[sets])
        )


def possible_numbers(group: Group, modules: Mapping[str, nn.Module]) -> Iterator[list[Number]]:
    """Attributes that may count a group's units, in ways to try: by name and value, in the modules that hold its layers."""
    units = len(group.units)
    owners = {path.rpartition(".")[0] for path, _ in group.producers}
    owners |= {path for path, _ in group.producers if next(modules[path].children(), None) is not None}
    found = []
    for path in sorted(owners):
        for key, value in vars(modules[path]).items():
            if type(value) is int and value >= units and value % units == 0 and not ("head" in key and "dim" in key):
                found.append((path, key, value // units))
    per_unit = {number // part for _, number in group.producers for part in (1, 2, 3)} | {1}
    named = [entry for entry in found if "head" in entry[1]] if group.is_heads else []
    sized = [entry for entry in found if entry[2] in per_unit and entry not in named]
    other = [entry for entry in sized if "dim" not in entry[1]]
    ways = [named, [*named, *other], [*named, *sized], other, sized, []]
    for i, way in enumerate(ways):
        if way not in ways[:i]:
            yield way


def width_of(group: Group, sizes: Sequence[int]) -> Width:
    """The width of a group."""
    return Width(group.name, [str(size) for size in sizes], sizes, object())


def norm_shapes(
    network: nn.Module, solution: Solution, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Path of a norm -> the shape of its input in one call of the network."""
    shapes: dict[str, Any] = {}
    modules = dict(network.named_modules())
    norms = {modules[norm.path]: norm.path for norm in solution.known.norms}

    def note(module: nn.Module, inputs: tuple[Any, ...], _: Any, output: Any) -> None:
        if inputs:
            shapes[norms[module]] = tuple(inputs[0].shape)

    with torch.no_grad(), noting_calls(norms, note):
        network(*args, **kwargs)
    return shapes
