"""Expressions: nodes of the standard library's ``ast``, and their text in short lines."""

from __future__ import annotations

import ast
import keyword
import math
import re
from typing import Any

import torch

WIDTH = 88
"""Columns of a written line."""
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


def parsed(text: str) -> Any:
    """The node of an expression's text."""
    return ast.parse(text, mode="eval").body


def plain(value: Any) -> ast.expr:
    """The expression of a plain value: a number, a text, None, a dtype, or a collection of plain values."""
    kind = type(value)
    if kind in (tuple, torch.Size):
        return ast.Tuple([plain(item) for item in value], ast.Load())
    if kind is list:
        return ast.List([plain(item) for item in value], ast.Load())
    if kind is dict:
        return ast.Dict([plain(key) for key in value], [plain(item) for item in value.values()])
    if kind is torch.dtype:
        return parsed(repr(value))
    if kind is float and not math.isfinite(value):
        return parsed(f'float("{value}")')
    if value is None or kind in (bool, int, float, str):
        return ast.Constant(value)
    raise ValueError(f"a value of type {kind.__name__} cannot be written as source")


def is_plain(value: Any) -> bool:
    """Whether a value can be written as source and is equal when the source runs."""
    try:
        plain(value)
    except ValueError:
        return False
    return True


def kind_of(node: ast.AST) -> str:
    """The annotation of a plain value's type; empty for an expression that is no plain value."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ""
    if isinstance(value, tuple):
        kinds = {kind_of(plain(item)) for item in value}
        return f"tuple[{kinds.pop()}, ...]" if len(kinds) == 1 else "tuple"
    return "None" if value is None else type(value).__name__


def is_identifier(name: str) -> bool:
    """Whether a text can be a name in source."""
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def call(function: str, /, *args: ast.expr, **keywords: ast.expr) -> ast.Call:
    """The call of a function by its dotted name."""
    return ast.Call(parsed(function), list(args), [ast.keyword(name, value) for name, value in keywords.items()])


def unparsed(node: ast.AST) -> str:
    """The text of a node on one line, ASCII only, with double quotes where they need no backslash."""
    return _STRING.sub(lambda match: _quoted(ast.literal_eval(match[0])), ast.unparse(node).strip())


def _quoted(value: str) -> str:
    text = ascii(value)
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text and "\\" not in text else text


def text(node: ast.AST, indent: int = 0, before: int = 0, after: int = 0) -> str:
    """The text of an expression, on one line where it fits with as many columns before and after it, otherwise on several."""
    line, outer, inner = unparsed(node), "    " * indent, "    " * (indent + 1)
    if len(outer) + before + len(line) + after <= WIDTH:
        return line
    items: list[tuple[str, ast.expr]]
    match node:
        case ast.Starred(value=value):
            return f"*{text(value, indent, before + 1, after)}"
        case ast.ListComp(elt=element, generators=[generator]):
            return f"[\n{inner}{text(element, indent + 1)}\n{inner}{unparsed(generator)}\n{outer}]"
        case ast.Call(args=args, keywords=keywords) if args or keywords:
            opening, closing = f"{unparsed(node.func)}(", ")"
            items = [*[("", item) for item in args], *[(f"{item.arg}=", item.value) for item in keywords]]
            arguments = line[len(opening) : -1]
            if len(inner + arguments) <= WIDTH and "(" not in arguments:
                return f"{opening}\n{inner}{arguments}\n{outer})"
        case ast.List(elts=[_, *_]) | ast.Tuple(elts=[_, *_]):
            opening, closing, items = line[0], line[-1], [("", item) for item in node.elts]
        case ast.Dict(keys=[_, *_]):
            opening, closing = "{", "}"
            items = [(f"{unparsed(key)}: ", item) for key, item in zip(node.keys, node.values, strict=True) if key]
        case _:
            return line
    lines = [f"{inner}{name}{text(value, indent + 1, len(name), 1)},\n" for name, value in items]
    return f"{opening}\n{''.join(lines)}{outer}{closing}"
