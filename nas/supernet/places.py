"""Finding the choices that modules are or hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from nas.supernet.base import ChoiceModule
from nas.supernet.cuts import cuts_of
from nas.supernet.value import values_of
from nas.supernet.width import NumberRow, Width, widths_of


def decisions(module: nn.Module) -> list[ChoiceModule]:
    """The choices that a module itself is or holds: the module, or its widths and values."""
    return [module] if isinstance(module, ChoiceModule) else held_by(module)


def held_by(module: nn.Module) -> list[ChoiceModule]:
    """The choices of the widths and values that a module itself holds."""
    cuts = cuts_of(module)
    widths = [*widths_of(module).values(), *(cuts.groups().values() if cuts is not None else ())]
    return [*map(_row_of, widths), *map(NumberRow, values_of(module))]


def _row_of(width: Width) -> ChoiceModule:
    """The row of a width, made once for all layers that hold the width."""
    known = vars(width)
    if "row" not in known:
        known["row"] = NumberRow(width)
    row: ChoiceModule = known["row"]
    return row


def outermost(modules: Iterable[nn.Module]) -> Iterator[ChoiceModule]:
    """The choices in `modules` that are not inside another choice."""
    for module in modules:
        yield from decisions(module)
        if not isinstance(module, ChoiceModule):
            yield from outermost(module.children())


def places_of(network: nn.Module) -> Iterator[ChoiceModule]:
    """Every choice in a network, in module order, including choices inside others."""
    for module in network.modules():
        yield from decisions(module)
