"""Expressions of Python that build modules, and their text."""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

WIDTH = 88
"""Columns of a written line."""
INDENT = "    "


@dataclass(frozen=True, eq=False)
class Literal:
    """A plain value; only :func:`literal` makes one. Equal to another of the same text: to Python, False is 0 and 1 is 1.0."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and literal_text(self.value) == literal_text(other.value)

    def __hash__(self) -> int:
        return hash(literal_text(self.value))


@dataclass(frozen=True)
class Name:
    """A name that is in scope where the expression stands: a parameter of the constructor."""

    name: str


@dataclass(frozen=True)
class Argument:
    """One argument of a call.

    Attributes:
        name: The parameter's name; empty for one of ``*args``.
        value: What is given.
        positional: Written without its name.
        optional: The call means the same without it.
    """

    name: str
    value: Expression
    positional: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Call:
    """A call; where `function` is ``[`` a list, ``{`` a dict whose keys are the arguments' names, and empty a tuple."""

    function: str
    arguments: tuple[Argument, ...] = ()


Expression = Literal | Name | Call


def is_literal(value: Any) -> bool:
    """Whether a value can stand in source text and comes out of it equal."""
    if isinstance(value, (tuple, list)):
        return type(value) in (tuple, list, torch.Size) and all(is_literal(item) for item in value)
    if isinstance(value, dict):
        return type(value) is dict and all(is_literal(item) for pair in value.items() for item in pair)
    return value is None or type(value) in (bool, int, float, str, torch.dtype)


def literal(value: Any) -> Literal:
    """A value as an expression.

    Raises:
        ValueError: It is not one that can stand in source text.
    """
    if not is_literal(value):
        raise ValueError(f"a value of type {type(value).__name__} cannot be written as source")
    return Literal(tuple(value) if isinstance(value, torch.Size) else value)


def literal_text(value: Any) -> str:
    """The source text of a plain value: through ``repr``, never by pasting its content."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, str):
        text = ascii(value)
        return '"' + text[1:-1] + '"' if text[0] == "'" and '"' not in text and "\\" not in text else text
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal_text, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal_text(key)}: {literal_text(item)}" for key, item in value.items()) + "}"
    return repr(value)


def is_plain_name(name: str) -> bool:
    """Whether a text may stand as an identifier."""
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def items(function: str, values: Sequence[Expression]) -> Call:
    """A call with positional arguments, or a list (``[``)."""
    return Call(function, tuple(Argument("", value, positional=True) for value in values))


def literals(expression: Expression, where: str = "") -> Iterator[tuple[str, Literal, bool]]:
    """All plain values in an expression, in order: the argument's name, the value, and whether it may be left out."""
    if isinstance(expression, Literal):
        yield where, expression, False
    elif isinstance(expression, Call):
        for argument in expression.arguments:
            if isinstance(argument.value, Literal):
                yield argument.name or where, argument.value, argument.optional
            else:
                yield from literals(argument.value, argument.name or where)


def with_literals(expression: Expression, values: Iterator[tuple[Expression, bool]]) -> Expression:
    """The same expression with other values, and other words on whether they may be left out."""
    if isinstance(expression, Literal):
        return next(values)[0]
    if isinstance(expression, Call):
        arguments = []
        for argument in expression.arguments:
            if isinstance(argument.value, Literal):
                value, optional = next(values)
                arguments.append(replace(argument, value=value, optional=optional))
            else:
                arguments.append(replace(argument, value=with_literals(argument.value, values)))
        return Call(expression.function, tuple(arguments))
    return expression


def skeleton(expression: Expression) -> Any:
    """What remains of an expression without its values; equal for expressions that differ in values only."""
    if isinstance(expression, Literal):
        return type(expression.value).__name__
    if isinstance(expression, Call):
        return expression.function, tuple((a.name, a.positional, skeleton(a.value)) for a in expression.arguments)
    return expression.name


def text(expression: Expression, *, indent: int = 0, before: int = 0, after: int = 0) -> str:
    """The source of an expression, on one line where it fits, else one argument a line.

    Args:
        expression: What to write.
        indent: Levels of the line on which it starts.
        before: Columns before it on that line, without the indentation.
        after: Columns behind it on its last line.
    """
    line = _line(expression)
    if len(INDENT) * indent + before + len(line) + after <= WIDTH:
        return line
    if isinstance(expression, Literal) and isinstance(expression.value, (list, tuple)) and len(expression.value) > 1:
        expression = items("[" if isinstance(expression.value, list) else "", [Literal(v) for v in expression.value])
    if not isinstance(expression, Call):
        return line
    opening, closing = _brackets(expression)
    arguments = _shown(expression)
    if not arguments:
        return line
    inner = INDENT * (indent + 1)
    middle = line[len(opening) : -len(closing)]
    if not any(isinstance(argument.value, Call) for argument in arguments) and len(inner) + len(middle) <= WIDTH:
        return f"{opening}\n{inner}{middle}\n{INDENT * indent}{closing}"
    lines = []
    runs = _runs(arguments)
    if _is_one_run(expression, runs):
        element = text(arguments[0].value, indent=indent + 1)
        return "\n".join(["[", f"{inner}{element}", f"{inner}for _ in range({runs[0][1]})", f"{INDENT * indent}]"])
    for argument, count in runs:
        prefix = _prefix(expression, argument)
        if count > 1:
            repeated = _repeated(argument.value, count)
            if len(inner) + len(repeated) + 1 > WIDTH:
                element = text(argument.value, indent=indent + 2)
                repeated = f"*[\n{inner}{INDENT}{element}\n{inner}{INDENT}for _ in range({count})\n{inner}]"
            lines.append(f"{inner}{repeated},")
        else:
            value = text(argument.value, indent=indent + 1, before=len(prefix), after=1)
            lines.append(f"{inner}{prefix}{value},")
    return "\n".join([opening, *lines, f"{INDENT * indent}{closing}"])


MIN_REPEATS = 3
"""Equal neighbours from which on a comprehension stands for them."""


def _line(expression: Expression) -> str:
    if isinstance(expression, Literal):
        return literal_text(expression.value)
    if isinstance(expression, Name):
        return expression.name
    opening, closing = _brackets(expression)
    parts = []
    runs = _runs(_shown(expression))
    if _is_one_run(expression, runs):
        return _repeated(runs[0][0].value, runs[0][1])[1:]
    for argument, count in runs:
        if count > 1:
            parts.append(_repeated(argument.value, count))
        else:
            parts.append(_prefix(expression, argument) + _line(argument.value))
    return opening + ", ".join(parts) + closing


def _is_one_run(call: Call, runs: Sequence[tuple[Argument, int]]) -> bool:
    """Whether a list repeats one element."""
    return call.function == "[" and len(runs) == 1 and runs[0][1] > 1


def _repeated(value: Expression, count: int) -> str:
    return f"*[{_line(value)} for _ in range({count})]"


def _brackets(call: Call) -> tuple[str, str]:
    return {"[": ("[", "]"), "{": ("{", "}")}.get(call.function, (f"{call.function}(", ")"))


def _prefix(call: Call, argument: Argument) -> str:
    if argument.positional or not argument.name:
        return ""
    return f"{literal_text(argument.name)}: " if call.function == "{" else f"{argument.name}="


def _shown(call: Call) -> list[Argument]:
    """The arguments that are written; behind one that is left out, others need their names."""
    shown, whole = [], True
    for argument in call.arguments:
        if argument.optional:
            whole = False
        else:
            shown.append(replace(argument, positional=argument.positional and (whole or not argument.name)))
    return shown


def _runs(arguments: Sequence[Argument]) -> list[tuple[Argument, int]]:
    """Arguments with the number of times that they follow each other; few equal ones stand for themselves."""
    runs: list[tuple[Argument, int]] = []
    i = 0
    while i < len(arguments):
        j = i
        while j < len(arguments) and arguments[j] == arguments[i] and not arguments[i].name:
            j += 1
        count = max(1, j - i)
        runs += (
            [(arguments[i], count)]
            if count >= MIN_REPEATS and isinstance(arguments[i].value, Call)
            else [(arguments[i], 1)] * count
        )
        i += count
    return runs
