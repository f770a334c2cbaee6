"""Costs of layers that are cut, as sums over the choices of width that cut them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nas.supernet.base import Condition
from nas.supernet.cuts import Axis, Cuts, cut, cuts_of
from nas.supernet.masking import replaced

Value = Callable[[nn.Module, tuple[Any, ...]], float]


def cut_terms(module: nn.Module, cuts: Cuts, args: tuple[Any, ...], value: Value) -> Iterator[tuple[Condition, float]]:
    """The cost of one call of a layer: ``a n m + b n + c m + d`` for n channels that it reads and m others.

    The four numbers come from four layers. A count of channels is a sum over groups, so the cost is a sum over groups and pairs of groups.

    Args:
        module: The layer.
        cuts: Its cuts.
        args: The arguments of the call, of full size; empty for costs that do not run the layer.
        value: The cost of a plain layer that is called with these arguments.
    """
    sides = _sides(module, cuts)
    if not sides:
        yield {}, value(module, args)
        return
    counts = [_counts(side[0]) for side in sides]
    ends = [(len(side[0].kept(_smallest(side[0]))), len(side[0].owners)) for side in sides]

    def at(lengths: Sequence[int]) -> float:
        length_of = {id(axis): length for side, length in zip(sides, lengths, strict=True) for axis in side}
        small = cut(module, cuts, lambda axis: torch.arange(length_of[id(axis)]), lambda width: int(width), {})
        return cut_value(small, cuts, lambda axis: length_of[id(axis)], args, value)

    if len(sides) == 1:
        (low, high), (fixed, parts) = ends[0], counts[0]
        slope = (at([high]) - at([low])) / (high - low)
        yield {}, at([low]) + slope * (fixed - low)
        yield from ((condition, slope * number) for condition, number in parts)
        return
    (n0, n1), (m0, m1) = ends
    f00, f10, f01, f11 = at([n0, m0]), at([n1, m0]), at([n0, m1]), at([n1, m1])
    a = (f11 - f10 - f01 + f00) / ((n1 - n0) * (m1 - m0))
    b, c = (f10 - f00) / (n1 - n0) - a * m0, (f01 - f00) / (m1 - m0) - a * n0
    (fixed_n, parts_n), (fixed_m, parts_m) = counts
    yield {}, f00 - a * n0 * m0 - b * n0 - c * m0 + a * fixed_n * fixed_m + b * fixed_n + c * fixed_m
    yield from ((condition, (a * fixed_m + b) * number) for condition, number in parts_n)
    yield from ((condition, (a * fixed_n + c) * number) for condition, number in parts_m)
    for first, n in parts_n:
        for second, m in parts_m:
            if all(first[name] == labels for name, labels in second.items() if name in first):
                yield {**first, **second}, a * n * m


def cut_value(
    small: nn.Module, cuts: Cuts, length: Callable[[Axis], int], args: tuple[Any, ...], value: Value
) -> float:
    """The cost of a layer that was cut, from the arguments of a call of full size.

    Args:
        small: The layer after the cut.
        cuts: The cuts of the layer.
        length: The number of channels of an axis that are kept.
        args: The arguments of the call, of full size; empty for costs that do not run the layer.
        value: The cost of a plain layer that is called with these arguments.
    """
    if cuts.reads is not None:
        dim, axis = cuts.reads
        return value(small, _narrowed(args, dim, length(axis)))
    error: Exception | None = None
    for dim, number in _channels_read(small, cuts, args):
        try:
            return value(small, _narrowed(args, dim, number))
        except RuntimeError as caught:  # another dimension has the same length
            error = caught
    raise ValueError(f"costs of {type(small).__name__} cannot be tabulated: {error}")


def _narrowed(args: tuple[Any, ...], dim: int, length: int | None) -> tuple[Any, ...]:
    return args if length is None or not args else replaced(args, args[0].narrow(dim, 0, length))


def _channels_read(layer: Any, cuts: Cuts, args: tuple[Any, ...]) -> Iterator[tuple[int, int | None]]:
    """Where the channels may be in the input of a layer that does not mix them, and their number; None if they are not known."""
    if isinstance(layer, _ConvNd):
        yield 1 - layer.weight.dim(), layer.in_channels
    for kind, key in ((_NormBase, "num_features"), (nn.GroupNorm, "num_channels"), (nn.PReLU, "num_parameters")):
        if isinstance(layer, kind):
            yield 1, getattr(layer, key)
    for name, dims in cuts.tensors.items() if args and isinstance(args[0], Tensor) else ():
        for (
            dim,
            axis,
        ) in dims.items():  # a layer of another library: its tensor is broadcast over the input, or viewed before
            for place in (dim - getattr(layer, name).dim(), *range(args[0].dim())):
                if place >= -args[0].dim() and args[0].shape[place] == len(axis.owners):
                    yield place, getattr(layer, name).shape[dim]
    yield 0, None


def rest_terms(network: nn.Module, rest: Callable[[Mapping[str, Any]], float]) -> Iterator[tuple[Condition, float]]:
    """What a cost has outside the layers, less that of the full size, so that a dropped block owes nothing.

    It is proportional to the units that each group lacks, and to their product for two groups of one tensor.

    Attention multiplies heads outside layers, and a module may hold parameters beside its layers.

    Args:
        network: The network of which layers are cut.
        rest: The cost of an architecture without that of its layers.
    """
    every = [(module, cuts) for module in network.modules() if (cuts := cuts_of(module)) is not None]
    widths = {name: width for _, cuts in every for name, width in cuts.groups().items()}
    full = {name: width.labels[-1] for name, width in widths.items()}
    least = {name: width.labels[0] for name, width in widths.items()}
    if not widths or rest(least) == (whole := rest(full)):
        return

    def lacks(name: str, label: str) -> int:
        return int(widths[name]) - widths[name].size(label)

    lost = {name: whole - rest({**full, name: least[name]}) for name in widths}
    for a, b in sorted({pair for module, cuts in every if [*module.children()] for pair in _pairs(cuts)}):
        both = lost[a] + lost[b] - whole + rest({**full, a: least[a], b: least[b]})
        factor = both / (lacks(a, least[a]) * lacks(b, least[b]))
        for x, y in itertools.product(widths[a].labels[:-1], widths[b].labels[:-1]) if factor else ():
            condition = {a: frozenset({x}), b: frozenset({y})}
            yield condition, factor * lacks(a, x) * lacks(b, y)
    for name, difference in lost.items():
        slope = difference / lacks(name, least[name])
        for label in widths[name].labels[:-1] if slope else ():
            yield {name: frozenset({label})}, -slope * lacks(name, label)


def _pairs(cuts: Cuts) -> Iterator[tuple[str, str]]:
    """The groups that meet in a tensor of a layer, in alphabetical order."""
    for dims in cuts.tensors.values():
        names = [sorted({group.name for group in axis.groups}) for axis in dims.values()]
        for one, two in itertools.combinations(names, 2):
            yield from ((min(a, b), max(a, b)) for a, b in itertools.product(one, two) if a != b)


def _sides(module: nn.Module, cuts: Cuts) -> list[list[Axis]]:
    """The axes of the channels that a layer reads, and the others; one list if it does not mix channels."""
    axes = {id(axis): axis for dims in cuts.tensors.values() for axis in dims.values()}
    reading = cuts.reads[1] if cuts.reads is not None else None
    if reading is not None:
        axes[id(reading)] = reading
    mixes = reading is not None and cuts.norm is None
    others = [axis for axis in axes.values() if not mixes or axis is not reading]
    sides = [[reading], others] if reading is not None and mixes else [others]
    sides = [side for side in sides if side]
    if any(not axis.equals(side[0]) for side in sides for axis in side):
        raise ValueError(
            f"costs cannot be tabulated: {type(module).__name__} has several kinds of channels in one layer"
        )
    return sides


def _smallest(axis: Axis) -> dict[str, str]:
    return {group.name: group.labels[0] for group in axis.groups}


def _counts(axis: Axis) -> tuple[int, list[tuple[dict[str, frozenset[str]], int]]]:
    """The number of channels that are always kept, and the number that each label of each group keeps."""
    owners, ranks = axis.owners.numpy(), axis.ranks.numpy()
    parts = [
        ({group.name: frozenset({label})}, int(np.sum((owners == i) & (ranks < group.size(label)))))
        for i, group in enumerate(axis.groups)
        for label in group.labels
    ]
    return int(np.sum(owners < 0)), parts
