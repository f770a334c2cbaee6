"""Expressions: nodes of the standard library's ``ast``, their text in short lines, and one expression for several."""

from __future__ import annotations

import ast
import itertools
import keyword
import math
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch

WIDTH = 88  # columns of a written line
_PREFERRED = ("out_channels", "out_features", "in_channels", "in_features", "dilation", "kernel_size")
_Found = dict[tuple[str, ...], tuple[ast.Name, Sequence[ast.expr], str, list[str]]]
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


def parsed(text: str) -> Any:
    """The node of an expression's text."""
    return ast.parse(text, mode="eval").body


def plain(value: Any) -> ast.expr:
    """The expression of a plain value: a number, a string, None, a dtype, or a collection of plain values."""
    kind = type(value)
    if kind in (tuple, torch.Size, list):
        return (ast.List if kind is list else ast.Tuple)([plain(item) for item in value], ast.Load())
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
    """The annotation of a plain value's type; empty for any other expression."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ""
    if isinstance(value, tuple):
        kinds = {kind_of(plain(item)) for item in value}
        return f"tuple[{kinds.pop()}, ...]" if len(kinds) == 1 else "tuple"
    return "None" if value is None else type(value).__name__


def is_identifier(name: str) -> bool:
    """Whether a string can be a name in source."""
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def call(function: str, /, *args: ast.expr, **keywords: ast.expr) -> ast.Call:
    """The call of a function by its dotted name."""
    return ast.Call(parsed(function), list(args), [ast.keyword(name, value) for name, value in keywords.items()])


def unparsed(node: ast.AST) -> str:
    """The text of a node on one line, ASCII only, with double quotes if they need no backslash."""

    def quoted(match: re.Match[str]) -> str:
        value = ascii(ast.literal_eval(match[0]))
        return value if '"' in value or "\\" in value else f'"{value[1:-1]}"'

    return _STRING.sub(quoted, ast.unparse(node).strip())


def text(node: ast.AST, indent: int = 0, before: int = 0, after: int = 0) -> str:
    """The text of an expression: one line if it fits with `before` and `after` columns around it, otherwise several lines."""
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
            if len(inner + arguments) <= WIDTH and not re.search(r"\w\(", arguments):
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


def structure(node: Any) -> Any:
    """An expression as nested tuples, with types in place of plain values."""
    if isinstance(node, list):
        return tuple(map(structure, node))
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.Dict) and not kind_of(node):
        return *map(unparsed, filter(None, node.keys)), structure(node.values)
    fields = [value for _, value in ast.iter_fields(node)]
    return kind_of(node).partition("[")[0] or (type(node), *map(structure, fields))


def join(expressions: Sequence[Mapping[str, ast.expr]]) -> tuple[dict[str, ast.expr], dict[str, Sequence[ast.expr]]]:
    """One expression for each attribute of several modules, with parameters in place of different values: name -> arguments."""
    found = _Found()
    shared = {name: _joined([other[name] for other in expressions], name, name, found) for name in expressions[0]}
    columns: dict[str, Sequence[ast.expr]] = {}
    for node, values, attribute, words in found.values():
        wanted = next((word for word in _PREFERRED if word in words), words[0])
        for unit in ("channels", "features"):
            if {f"in_{unit}", f"out_{unit}"} <= set(words):
                wanted = unit
        if wanted in columns and attribute and not wanted.startswith(attribute):
            wanted = f"{attribute}_{wanted}"
        node.id = free_name(wanted if is_identifier(wanted) and wanted != "self" else "value", columns)
        columns[node.id] = values
    return shared, columns


def _joined(nodes: Sequence[Any], attribute: str, argument: str, found: _Found) -> Any:
    """One node for the nodes of several modules; new parameters are added to `found`."""
    first, texts = nodes[0], tuple(map(unparsed, nodes))
    if len(set(texts)) == 1:
        return first
    if kind_of(first) or len(set(map(structure, nodes))) > 1:
        name, _, _, words = found.setdefault(texts, (ast.Name(""), nodes, attribute, []))
        words.append(argument)
        return name
    if isinstance(first, ast.keyword):
        argument = str(first.arg)
    fields = dict(ast.iter_fields(first))
    for field, value in fields.items():
        values = [getattr(node, field) for node in nodes]
        if isinstance(value, list):
            fields[field] = [_joined(items, attribute, argument, found) for items in zip(*values, strict=True)]
        elif isinstance(value, ast.AST):
            fields[field] = _joined(values, attribute, argument, found)
    return type(first)(**fields)


def signature(columns: Mapping[str, Sequence[ast.expr]]) -> list[str]:
    """The first lines of a constructor that takes one parameter for each column of arguments."""
    words = ["self", *[f"{name}: {_annotation(values)}" for name, values in columns.items()]]
    line = f"    def __init__({', '.join(words)}) -> None:"
    if len(line) <= WIDTH:
        return [line]
    return ["    def __init__(", *[f"        {word}," for word in words], "    ) -> None:"]


def _annotation(values: Sequence[ast.expr]) -> str:
    kinds = {kind_of(value) for value in values if kind_of(value)}
    layers = {unparsed(value).partition("(")[0] for value in values if not kind_of(value)}
    if layers:
        kinds.add(layers.pop() if len(layers) == 1 and min(layers).startswith("nn.") else "nn.Module")
    return " | ".join(sorted(kinds, key=lambda kind: (kind == "None", kind)))


def free_name(wanted: str, taken: Container[str]) -> str:
    """The name, with a number at its end if the name is taken."""
    numbered = (f"{wanted}{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if name not in taken)
