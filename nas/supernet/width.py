"""Widths: numbers of channels (features) of layers, as choices."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas.supernet.base import ChoiceModule, Condition, check_choice, context_of


class Width(int):
    """A whole number that is a choice. While searching, its value is the largest of its sizes.

    Made by :func:`nas.width`. Layers store it as ``in_channels``, ``out_features`` and so on. They tell a supernet which tensors to mask
    and to cut. A width can be multiplied and divided by whole numbers, but not added.

    Attributes:
        labels: The sizes that :func:`nas.width` got, as texts.
        sizes: The sizes after multiplications and divisions, in ascending order.
        origin: Identifies the call of :func:`nas.width` that made it.
    """

    name: str
    labels: tuple[str, ...]
    sizes: tuple[int, ...]
    origin: object
    shared: bool

    def __new__(
        cls, name: str, labels: Sequence[str], sizes: Sequence[int], origin: object, shared: bool = False
    ) -> Width:
        """Stores the sizes; the value is the largest size."""
        width = super().__new__(cls, max(sizes))
        width.name, width.labels, width.sizes = name, tuple(labels), tuple(sizes)
        width.origin, width.shared = origin, shared
        return width

    def _with(self, sizes: Sequence[int]) -> Width:
        if any(type(size) is not int for size in sizes):
            raise ValueError(f"width {self.name!r} can be combined with plain whole numbers only, not with nas.value")
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
        raise ValueError(
            f"width {self.name!r} does not support addition; give the branches one width and sum their outputs"
        )

    __radd__ = __sub__ = __rsub__ = __add__

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        raise ValueError(
            f"width {self.name!r} can only be multiplied by a whole number, or divided by a whole number with //"
        )

    __truediv__ = __rtruediv__ = __rpow__ = __lshift__ = __rshift__ = __and__ = __or__ = __pow__
    __divmod__ = __pow__

    def __rfloordiv__(self, other: int) -> Any:
        if caller().startswith("torch."):  # group norm checks the size of its input
            return other // int(self)
        return self.__pow__(None)

    def __neg__(self) -> Any:
        return self.__pow__(None)

    def __mod__(self, divisor: int) -> int:
        rests = {size % divisor for size in self._sizes_of(divisor)}
        if len(rests) > 1:
            raise ValueError(f"width {self.name!r}: sizes {list(self.sizes)} leave different remainders by {divisor}")
        return rests.pop()

    def _sizes_of(self, divisor: int) -> tuple[int, ...]:
        """The sizes; only the largest if the divisor is a width, since all sizes then leave the same remainder."""
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


def caller() -> str:
    """The name of the module that uses an operator of a width or value."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


class NumberChoice(NamedTuple):
    """The choice of a number that layers hold; choices of the same origin are one decision."""

    name: str
    labels: tuple[str, ...]
    shared: bool
    origin: object


class NumberRow(ChoiceModule):
    """The choice module of a number. It is not part of a network; it represents the number in all layers that hold it."""

    cuts = True

    def __init__(self, number: Width | NumberChoice) -> None:
        """Stores the parts of a width, or of a choice of a value."""
        super().__init__()
        self.name = number.name
        self.labels = number.labels
        self.shared = number.shared
        self.origin = number.origin

    def rows(self) -> dict[str, tuple[str, ...]]:
        return {self.name: self.labels}

    def first(self, name: str) -> str:
        return self.labels[-1]

    def parts(self) -> Iterator[tuple[Condition, nn.Module]]:
        yield from ()

    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        raise AssertionError("a number is derived with its layers")


_MADE: ContextVar[list[str] | None] = ContextVar("nas_numbers_made", default=None)


@contextmanager
def noting_numbers() -> Iterator[list[str]]:
    """Collects the names of widths and values that are made inside the block, to find those that reach no layer."""
    made: list[str] = []
    token = _MADE.set(made)
    try:
        yield made
    finally:
        _MADE.reset(token)


def note_made(name: str) -> None:
    """Tells :func:`noting_numbers` of a width or value."""
    if (made := _MADE.get()) is not None:
        made.append(name)


def check_reached(made: Iterable[str], choices: Iterable[str]) -> None:
    """Raises ValueError for a name in `made`, from :func:`noting_numbers`, that is not among the choices of the network."""
    if lost := [name for name in made if name not in choices]:
        raise ValueError(
            f"{lost[0]!r} of nas.width or nas.value reaches no layer: a layer must store the number, or a number calculated from it, in an "
            "attribute of its own, a tuple or a list; some calculations with a width give a plain number"
        )


def make_width(name: str, sizes: Sequence[int], shared: bool) -> Width:
    """The width of :func:`nas.width` while searching."""
    sizes = check_sizes(name, sizes)
    note_made(name)
    return Width(name, [str(size) for size in sizes], sizes, object(), shared)


def check_sizes(name: str, sizes: Sequence[int]) -> list[int]:
    """The sizes in ascending order; raises ValueError for bad sizes or a bad name."""
    if any(not isinstance(size, int) or size < 1 for size in sizes) or len(set(sizes)) != len(sizes):
        raise ValueError(f"width {name!r}: sizes must be different whole numbers of at least 1, got {list(sizes)}")
    check_choice(name, dict.fromkeys(str(size) for size in sizes))
    return sorted(sizes)


def widths_of(module: nn.Module) -> dict[str, Width]:
    """Attribute -> width, for the widths that a module itself holds: alone, or in a tuple of one (the shape of a norm)."""
    found = {}
    for key, value in vars(module).items():
        if type(value) is tuple and len(value) == 1:
            (value,) = value
        if isinstance(value, Width):
            found[key] = value
    return found


def mask_of(width: Width) -> Tensor:
    """The share of each channel under the op weights of the present forward: (N,), or (B, N) if the op weights are per sample."""
    context = context_of(width.name)
    weights = context.op_weights[context.rows[width.name]][..., : len(width.labels)]
    return weights @ steps(width.sizes, weights.device, weights.dtype)


def steps(sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(K, N): row k is 1 for the first sizes[k] of N channels, else 0."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        # torch.compile warns about caches, and keeps constants itself
        made = _made_steps.__wrapped__ if torch.compiler.is_compiling() else _made_steps
        return made(sizes, device, dtype)


@lru_cache(maxsize=1024)
def _made_steps(sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).to(device, dtype)
