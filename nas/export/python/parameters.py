"""One expression for several of the same structure, in which a constructor's parameters replace the values that differ."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from nas.export.python.code import is_identifier, kind_of, parsed, unparsed
from nas.export.python.names import free_name

_PREFERRED = ("out_channels", "out_features", "in_channels", "in_features", "dilation", "kernel_size")


class _Types(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> ast.AST:
        kind = kind_of(node).partition("[")[0]
        return ast.Name(kind) if kind else super().visit(node)

    def visit_Dict(self, node: ast.Dict) -> ast.Dict:
        return ast.Dict(node.keys, [self.visit(value) for value in node.values])  # type: ignore[misc]


def structure(node: ast.AST) -> str:
    """The text of an expression with types in the place of plain values."""
    return unparsed(_Types().visit(parsed(unparsed(node)))) if isinstance(node, ast.expr) else ""


class Parameters:
    """The parameters of a constructor that builds one of several modules.

    Attributes:
        columns: Name -> the argument for each module.
    """

    def __init__(self) -> None:
        self.columns: dict[str, Sequence[ast.expr]] = {}
        self._found: dict[tuple[str, ...], tuple[ast.Name, Sequence[ast.expr], list[tuple[str, str]]]] = {}

    def joined(self, nodes: Sequence[Any], attribute: str, argument: str) -> Any:
        """One expression for those of all modules, which belong to an argument of the value of an attribute."""
        first, texts = nodes[0], tuple(map(unparsed, nodes))
        if len(set(texts)) == 1:
            return first
        if kind_of(first) or len(set(map(structure, nodes))) > 1:
            name, _, places = self._found.setdefault(texts, (ast.Name(""), nodes, []))
            places.append((attribute, argument))
            return name
        if isinstance(first, ast.keyword):
            argument = str(first.arg)
        fields = dict(ast.iter_fields(first))
        for field, value in fields.items():
            values = [getattr(node, field) for node in nodes]
            if isinstance(value, list):
                fields[field] = [self.joined(items, attribute, argument) for items in zip(*values, strict=True)]
            elif isinstance(value, ast.AST):
                fields[field] = self.joined(values, attribute, argument)
        return type(first)(**fields)

    def name(self) -> None:
        """Gives the parameters their names, after all expressions are joined."""
        for node, values, places in self._found.values():
            words, attribute = [argument for _, argument in places], places[0][0]
            wanted = next((word for word in _PREFERRED if word in words), words[0])
            for unit in ("channels", "features"):
                if {f"in_{unit}", f"out_{unit}"} <= set(words):
                    wanted = unit
            if wanted in self.columns and attribute and not wanted.startswith(attribute):
                wanted = f"{attribute}_{wanted}"
            node.id = free_name(wanted if is_identifier(wanted) and wanted != "self" else "value", self.columns)
            self.columns[node.id] = values
