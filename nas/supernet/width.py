"""Widths: numbers of channels (features) of layers, as choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from nas.supernet.base import ChoiceModule, Condition, check_choice


class Width(int):
    """A whole number that is still to be chosen: the largest of its sizes while searching.

    Made by :func:`nas.width`. Layers keep it as their ``in_channels``, ``out_features`` and so on, which is how a supernet knows what to
    mask and what to cut. It may be multiplied and divided by whole numbers; it cannot be added to.

    Attributes:
        name: The choice's name.
        labels: The sizes' texts, as chosen.
        sizes: The sizes here, after multiplications and divisions; rising.
        origin: The call of :func:`nas.width` that made it.
        shared: Whether other widths may use the same name.
    """

    name: str
    labels: tuple[str, ...]
    sizes: tuple[int, ...]
    origin: object
    shared: bool

    def __new__(
        cls, name: str, labels: Sequence[str], sizes: Sequence[int], origin: object, shared: bool = False
    ) -> Width:
        """Stores the sizes; the number is the largest."""
        width = super().__new__(cls, max(sizes))
        width.name, width.labels, width.sizes = name, tuple(labels), tuple(sizes)
        width.origin, width.shared = origin, shared
        return width

    def _with(self, sizes: Sequence[int]) -> Width:
        if min(sizes) < 1:
            raise ValueError(f"width {self.name!r} would become {list(sizes)}; sizes must stay at least 1")
        return Width(self.name, self.labels, sizes, self.origin, self.shared)

    def __mul__(self, factor: int) -> Width:
        if isinstance(factor, Width) or not isinstance(factor, int):
            raise ValueError(f"width {self.name!r} can be multiplied by a whole number only, got {factor!r}")
        return self._with([size * factor for size in self.sizes])

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> int:
        if isinstance(divisor, Width):
            same = self.name == divisor.name
            ratios = {a // b for a, b in zip(self.sizes, divisor.sizes, strict=True)} if same else set()
            if len(ratios) != 1:
                raise ValueError(f"width {self.name!r} cannot be divided by width {divisor.name!r}")
            return ratios.pop()
        return self._with([size // divisor for size in self.sizes])

    def __add__(self, other: int) -> int:
        raise ValueError(f"width {self.name!r} cannot be added to; bring the branches to one width and sum them")

    __radd__ = __sub__ = __rsub__ = __add__

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        raise ValueError(f"width {self.name!r} can only be multiplied by a whole number or divided by one with //")

    __truediv__ = __rtruediv__ = __rfloordiv__ = __rpow__ = __lshift__ = __rshift__ = __and__ = __or__ = __pow__
    __divmod__ = __pow__

    def __neg__(self) -> Any:
        return self.__pow__(None)

    def __mod__(self, divisor: int) -> int:
        rests = {size % divisor for size in self._sizes_of(divisor)}
        if len(rests) > 1:
            raise ValueError(f"width {self.name!r}: sizes {list(self.sizes)} leave different remainders by {divisor}")
        return rests.pop()

    def _sizes_of(self, divisor: int) -> tuple[int, ...]:
        """The sizes; of a division of a width by itself just the largest, since all leave the same."""
        return self.sizes[-1:] if isinstance(divisor, Width) else self.sizes

    def __copy__(self) -> Width:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Width:
        return self

    def __reduce__(self) -> Any:
        return Width, (self.name, self.labels, self.sizes, self.origin, self.shared)

    def size(self, label: str) -> int:
        """The number under a label."""
        return self.sizes[self.labels.index(label)]


class WidthRow(ChoiceModule):
    """A width as a place of decision. It is in no network: it stands for what layers of that width share."""

    cuts = True

    def __init__(self, width: Width) -> None:
        """Stands for `width`."""
        super().__init__()
        self.width = width
        self.shared = width.shared
        self.origin = width.origin

    def rows(self) -> dict[str, tuple[str, ...]]:
        return {self.width.name: self.width.labels}

    def first(self, name: str) -> str:
        return self.width.labels[-1]

    def parts(self) -> Iterator[tuple[Condition, nn.Module]]:
        yield from ()

    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        raise AssertionError("a width is derived with its layers")


_MADE: ContextVar[list[str] | None] = ContextVar("nas_widths_made", default=None)


@contextmanager
def noting_widths() -> Iterator[list[str]]:
    """Gives the names of widths that are made while the block runs: a width that arithmetic swallowed is in no layer."""
    made: list[str] = []
    token = _MADE.set(made)
    try:
        yield made
    finally:
        _MADE.reset(token)


def make_width(name: str, sizes: Sequence[int], shared: bool) -> Width:
    """The width of :func:`nas.width` while searching.

    Raises:
        ValueError: A bad name or bad sizes.
    """
    sizes = check_sizes(name, sizes)
    if (made := _MADE.get()) is not None:
        made.append(name)
    return Width(name, [str(size) for size in sizes], sizes, object(), shared)


def check_sizes(name: str, sizes: Sequence[int]) -> list[int]:
    """The sizes, rising.

    Raises:
        ValueError: Fewer than two, one below 1 or given twice, or a bad name.
    """
    if any(not isinstance(size, int) or size < 1 for size in sizes) or len(set(sizes)) != len(sizes):
        raise ValueError(f"width {name!r}: sizes must be different whole numbers from 1 on, got {list(sizes)}")
    check_choice(name, dict.fromkeys(str(size) for size in sizes))
    return sorted(sizes)


def widths_of(module: nn.Module) -> dict[str, Width]:
    """Attribute -> width, of the widths that a module itself holds."""
    return {key: value for key, value in vars(module).items() if isinstance(value, Width)}
