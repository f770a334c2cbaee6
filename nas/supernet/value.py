"""Values: numbers of a layer, such as a kernel size or a rate, as choices."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from nas.supernet.base import check_choice
from nas.supernet.width import NumberChoice, Width, caller, note_made

Tree = TypeVar("Tree")
HINT = "a constructor cannot branch on it. Test the number in the forward of the layer that stores it, or use nas.choice or nas.repeat"


class Value:
    """A number that depends on choices. Code that does not know of choices reads the number under the last label of each.

    Made by :func:`nas.value`. Calculations with numbers and other values give another value: ``d * (k - 1) // 2`` knows its result for each
    pair of `d` and `k`. A comparison gives a plain answer if it is the same for all numbers, and otherwise raises ValueError. Layers store
    values as ``kernel_size``, ``dilation``, ``p`` and so on, alone or in tuples and lists.

    Attributes:
        choices: The choices that decide the number.
        table: A label of each choice, in this order -> the number.
    """

    choices: tuple[NumberChoice, ...]
    table: Mapping[tuple[str, ...], float]

    def of(self, choices: Mapping[str, Any]) -> float:
        """The number under `choices`."""
        return self.table[tuple(choices[choice.name] for choice in self.choices)]

    def __copy__(self) -> Value:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Value:
        return self

    def __reduce__(self) -> Any:
        return _number, (self.choices, dict(self.table))


class IntValue(Value, int):
    """A value whose numbers are whole."""

    __hash__ = int.__hash__


class FloatValue(Value, float):
    """A value with numbers that are not whole."""

    __hash__ = float.__hash__


def _number(choices: tuple[NumberChoice, ...], table: Mapping[tuple[str, ...], Any]) -> Any:
    """The value with these numbers; a plain number if they are equal."""
    numbers = list(table.values())
    if all(number == numbers[0] for number in numbers):
        return numbers[0]
    kind = IntValue if all(isinstance(number, int) for number in numbers) else FloatValue
    value = kind(table[tuple(choice.labels[-1] for choice in choices)])
    value.choices, value.table = choices, table
    return value


def _calculated(function: Callable[..., float], *numbers: float) -> Any:
    """The value of a function of numbers and values."""
    found: dict[str, NumberChoice] = {}
    for number in numbers:
        if isinstance(number, Width) or not isinstance(number, (int, float)):
            raise ValueError(f"a value of nas.value can be combined with numbers and other values only, got {number!r}")
        for choice in number.choices if isinstance(number, Value) else ():
            known = found.setdefault(choice.name, choice)
            if known.origin is not choice.origin and not (known.shared and known[:3] == choice[:3]):
                raise ValueError(f"choice {choice.name!r} is used for two values in one expression")
    table = {
        labels: function(*[resolved(number, dict(zip(found, labels, strict=True))) for number in numbers])
        for labels in itertools.product(*[choice.labels for choice in found.values()])
    }
    return _number(tuple(found.values()), table)


def _add_operators() -> None:
    """Gives the classes of values the operators of numbers."""

    def method(function: Callable[..., Any], *, swapped: bool = False) -> Callable[..., Any]:
        def calculated(self: Any, *others: Any) -> Any:
            return _calculated(function, *((*others, self) if swapped else (self, *others)))

        return calculated

    def test(what: str, function: Callable[..., bool]) -> Callable[..., bool]:
        def tested(self: Any, *others: Any) -> Any:
            if not all(isinstance(other, (int, float)) for other in others):
                return NotImplemented
            answer = _calculated(function, self, *others)
            if not isinstance(answer, Value):
                return answer
            if caller().startswith("torch."):  # constructors and fast paths look for what they do not support
                return any(answer.table.values())
            raise ValueError(f"{what} of a value differs between the numbers of {_names(answer)}: {HINT}")

        return tested

    def converted(kind: Callable[[Any], Any]) -> Callable[..., Any]:
        def plain(self: Any) -> Any:
            if caller().startswith("torch._"):  # torch.compile
                return kind(self.__repr__())
            raise ValueError(
                f"{kind.__name__}() would lose the numbers of {_names(self)}; use //, round or math.floor. If a layer of torch calls "
                "it, make the layer with a plain number, and then set its attribute to the value"
            )

        return plain

    operators: dict[str, Any] = {}
    for name in "add sub mul truediv floordiv mod pow lshift rshift and or xor".split():
        operators[name] = method(getattr(operator, f"__{name}__"))
        operators[f"r{name}"] = method(getattr(operator, f"__{name}__"), swapped=True)
    operators |= {name: method(getattr(operator, f"__{name}__")) for name in ("neg", "pos", "abs", "invert")}
    operators |= {function.__name__: method(function) for function in (round, math.floor, math.ceil, math.trunc)}
    operators |= {name: test("a comparison", getattr(operator, name)) for name in "eq ne lt le gt ge".split()}
    operators |= {"bool": test("the truth", bool), "int": converted(int), "float": converted(float)}
    operators["divmod"] = lambda self, other: (self // other, self % other)
    operators["rdivmod"] = lambda self, other: (other // self, other % self)
    for name, function in operators.items():
        setattr(Value, f"__{name}__", function)


def _names(value: Value) -> str:
    return ", ".join(repr(choice.name) for choice in value.choices)


_add_operators()


def make_value(name: str, numbers: Mapping[str, float], shared: bool) -> Any:
    """The value of :func:`nas.value` while searching, from label -> number in ascending order."""
    note_made(name)
    choice = NumberChoice(name, tuple(numbers), shared, object())
    return _number((choice,), {(label,): number for label, number in numbers.items()})


def check_numbers(name: str, numbers: Sequence[float]) -> dict[str, float]:
    """Label -> number, in ascending order; raises ValueError for bad numbers or a bad name."""
    if any(type(n) not in (int, float) or not math.isfinite(n) for n in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError(f"value {name!r}: expected different finite numbers of type int or float, got {list(numbers)}")
    labels = {str(number): number for number in sorted(numbers)}
    check_choice(name, labels)
    return labels


def values_in(item: Any) -> Iterator[Value]:
    """The values in an attribute of a layer: the attribute itself, or the items of a tuple or list."""
    if isinstance(item, Value):
        yield item
    elif isinstance(item, (tuple, list)):
        for inner in item:
            yield from values_in(inner)


def has_values(item: Any) -> bool:
    """Whether an attribute of a layer has values; see :func:`values_in`."""
    return next(values_in(item), None) is not None


def values_of(module: nn.Module) -> list[NumberChoice]:
    """The choices of the values that a module itself holds, each once."""
    found: dict[str, NumberChoice] = {}
    for item in [item for item in vars(module).values() if isinstance(item, (Value, tuple, list))]:
        for value in values_in(item):
            found |= {choice.name: choice for choice in value.choices}
    return list(found.values())


def resolved(item: Tree, choices: Mapping[str, Any]) -> Tree:
    """An attribute of a layer with plain numbers in place of the values."""
    if isinstance(item, Value):
        return item.of(choices)  # type: ignore[return-value]
    if isinstance(item, (tuple, list)) and has_values(item):
        return type(item)(resolved(inner, choices) for inner in item)
    return item
