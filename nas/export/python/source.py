"""Text of methods: finding it, and leaving out the branches that a network never takes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

PRESENT = object()
"""Stands for an attribute that is not None."""

Edit = tuple[int, int, str]


class Text:
    """Source text with the places of its syntax tree's nodes."""

    def __init__(self, source: str) -> None:
        """Parses the text.

        Args:
            source: Complete statements, not indented.
        """
        self.source = source
        self.tree = ast.parse(source)
        self._bytes = source.encode()
        self._lines = [0]
        for line in self._bytes.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def start(self, node: ast.AST) -> int:
        """Offset of a node's first byte."""
        return self._lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        """Offset behind a node's last byte."""
        return self._lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def line_start(self, node: ast.AST) -> int:
        """Offset of the line on which a node starts."""
        return self._lines[node.lineno - 1]  # type: ignore[attr-defined]

    def line_end(self, node: ast.AST) -> int:
        """Offset behind the line on which a node ends."""
        return self._lines[min(node.end_lineno, len(self._lines) - 1)]  # type: ignore[attr-defined]

    def part(self, start: int, end: int) -> str:
        """The text between two offsets."""
        return self._bytes[start:end].decode()

    def stands(self, node: ast.expr) -> bool:
        """Whether an expression is where its node says; before Python 3.12 that is wrong inside f-strings."""
        try:
            found = ast.parse(f"({self.part(self.start(node), self.end(node))})", mode="eval").body
        except (SyntaxError, UnicodeDecodeError):
            return False
        return ast.dump(found) == ast.dump(node)

    def edited(self, edits: Iterable[Edit]) -> str:
        """The text with spans replaced; spans do not overlap."""
        result = self._bytes
        for start, end, new in sorted(edits, reverse=True):
            result = result[:start] + new.encode() + result[end:]
        return result.decode()


def source_of(item: Any) -> str:
    """Source of a function or class, not indented.

    Raises:
        ValueError: There is none to be had, for example because it was typed at a prompt, or its file has changed since it was read.
    """
    name = getattr(item, "__qualname__", repr(item))
    try:
        source = textwrap.dedent(inspect.getsource(item))
    except (OSError, TypeError):
        raise ValueError(f"the source of {name} cannot be found; put it into a file of its own") from None
    try:
        found: Any = ast.parse(source).body[0]
    except SyntaxError:
        found = None
    if getattr(found, "name", None) != item.__name__:
        raise ValueError(f"the source of {name} cannot be read; its file may have changed since it was imported")
    return source


def self_name(source: str) -> str:
    """What a method calls its object."""
    function = ast.parse(source).body[0]
    assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
    if any(_is_name(decorator, "staticmethod") for decorator in function.decorator_list):
        return ""
    arguments = [*function.args.posonlyargs, *function.args.args]
    return arguments[0].arg if arguments else ""


def attributes_read(source: str) -> list[str]:
    """Attributes of its object that a method reads, each once, in order; ``*`` for an access by computed name."""
    own = self_name(source)
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _is_name(node.value, own):
            found[node.attr] = None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "vars"):
            if node.args and _is_name(node.args[0], own):
                found["*"] = None
    return list(found)


def attributes_stored(source: str) -> set[str]:
    """Attributes of any object that a method sets or deletes; ``*`` for one by computed name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
            found.add("*")
    return found


def attributes_of_others(source: str) -> set[str]:
    """Attributes that a method reads of anything."""
    return {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def super_calls(source: str) -> list[str]:
    """Names of the methods that are called by ``super()``."""
    return [
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "super"
    ]


def fold(source: str, known: Mapping[str, Any]) -> str:
    """A method without the branches that are never taken.

    Args:
        source: The method.
        known: Attributes of its object that never change: plain values, None, or :data:`PRESENT`.
    """
    own = self_name(source)
    while (changed := _fold_once(source, own, known)) is not None:
        source = changed
    return source


def _fold_once(source: str, own: str, known: Mapping[str, Any]) -> str | None:
    """The source after the first edit that does exactly what it is meant to; None where there is none left."""
    text = Text(source)
    for edit, change in _edits(text, own, known):
        new = text.edited([edit])
        try:
            found = ast.dump(ast.parse(new))
        except SyntaxError:
            continue  # the layout of the text is another than the edit takes it for
        tree = ast.parse(source)
        change(tree)
        if new != source and found == ast.dump(tree):
            return new
    return None


Change = Callable[[ast.AST], None]


def _edits(text: Text, own: str, known: Mapping[str, Any]) -> Iterator[tuple[Edit, Change]]:
    """Edits of the text, each with what it means for the syntax tree."""
    for number, (body, statement) in enumerate(_statements(text.tree)):
        index = body.index(statement)
        if isinstance(statement, (ast.Return, ast.Raise)) and index < len(body) - 1:
            yield (text.line_end(statement), text.line_end(body[-1]), ""), partial(_cut, number)
        if isinstance(statement, ast.If) and (taken := _evaluate(statement.test, own, known)) is not None:
            yield _taken(text, body, statement, taken), partial(_choose, number, taken)
    for number, node in enumerate(ast.walk(text.tree)):
        if isinstance(node, ast.IfExp) and (taken := _evaluate(node.test, own, known)) is not None:
            branch = node.body if taken else node.orelse
            if text.stands(node):
                new = text.part(text.start(branch), text.end(branch))
                yield (text.start(node), text.end(node), new), partial(_choose_expression, number, taken)


def _cut(number: int, tree: ast.AST) -> None:
    body, statement = list(_statements(tree))[number]
    del body[body.index(statement) + 1 :]


def _choose(number: int, taken: bool, tree: ast.AST) -> None:
    body, statement = list(_statements(tree))[number]
    assert isinstance(statement, ast.If)
    index = body.index(statement)
    chosen = statement.body if taken else statement.orelse
    body[index : index + 1] = chosen or ([ast.Pass()] if len(body) == 1 else [])
    parent = next(
        (node for node in ast.walk(tree) if isinstance(node, ast.If) and node.orelse is body and len(body) == 1), None
    )
    if parent is not None and not chosen:
        parent.orelse = []


def _choose_expression(number: int, taken: bool, tree: ast.AST) -> None:
    old = list(ast.walk(tree))[number]
    assert isinstance(old, ast.IfExp)
    new = old.body if taken else old.orelse
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if value is old:
                setattr(node, field, new)
            elif isinstance(value, list):
                setattr(node, field, [new if item is old else item for item in value])


def _statements(tree: ast.AST) -> Iterator[tuple[list[ast.stmt], ast.stmt]]:
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list) and not isinstance(node, ast.Module):
                yield from ((body, statement) for statement in body)


def _taken(text: Text, body: list[ast.stmt], statement: ast.If, taken: bool) -> Edit:
    """Replaces an ``if`` or ``elif`` by what is left of it."""
    start, end = text.line_start(statement), text.line_end(statement)
    indent = " " * statement.col_offset
    others = text.part(text.line_end(statement.body[-1]), end)  # with its "else:" or "elif ...:"
    lines = text.part(text.line_start(statement.body[0]), text.line_end(statement.body[-1]))
    if text.part(text.start(statement), end).startswith("elif"):
        return start, end, f"{indent}else:\n{lines}" if taken else others
    if not taken and others.lstrip().startswith("elif"):
        return start, end, indent + others.lstrip()[2:]
    if not taken and not others:
        return start, end, f"{indent}pass\n" if len(body) == 1 else ""
    if not taken:
        lines = text.part(text.line_start(statement.orelse[0]), end)
    return start, end, textwrap.indent(textwrap.dedent(lines), indent)


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


def _evaluate(test: ast.expr, own: str, known: Mapping[str, Any]) -> bool | None:
    """Whether a condition holds; None where it is not known."""
    if isinstance(test, ast.BoolOp):
        values = [_evaluate(value, own, known) for value in test.values]
        decides = isinstance(test.op, ast.Or)
        if decides in values:
            return decides
        return None if None in values else not decides
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _evaluate(test.operand, own, known)
        return None if inner is None else not inner
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right, op = _value(test.left, own, known), _value(test.comparators[0], own, known), test.ops[0]
        if _UNKNOWN in (left, right):
            return None
        if isinstance(op, (ast.Is, ast.IsNot)) and right is None:
            return (left is None) == isinstance(op, ast.Is)
        if type(op) in _COMPARE and PRESENT not in (left, right) and None not in (left, right):
            return _COMPARE[type(op)](left, right)
        return None
    value = _value(test, own, known)
    return value if isinstance(value, bool) else False if value is None else None


_UNKNOWN = object()


def _value(node: ast.expr, own: str, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Attribute) and _is_name(node.value, own):
        return known.get(node.attr, _UNKNOWN)
    return _UNKNOWN


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
