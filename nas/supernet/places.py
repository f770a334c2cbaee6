"""Finding the choices that modules are or hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from nas.supernet.base import ChoiceModule
from nas.supernet.width import WidthRow, widths_of


def decisions(module: nn.Module) -> list[ChoiceModule]:
    """The choices that a module itself is or holds: the module, or its widths."""
    if isinstance(module, ChoiceModule):
        return [module]
    return [WidthRow(width) for width in widths_of(module).values()]


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
