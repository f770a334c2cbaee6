"""What a method's source says, and the source without the branches that a network never takes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import libcst as cst


class _Present:
    """An attribute of which nothing is known except that it is not None."""

    def __bool__(self) -> bool:
        raise TypeError

    def __eq__(self, other: object) -> bool:
        raise TypeError


PRESENT = _Present()


@cache
def source_of(item: Any) -> str:
    """Source of a function or class, not indented."""
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


@cache
def _nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(source)))


def _self_name(source: str) -> str:
    """The name of a method's object, empty for a static method."""
    function: Any = _nodes(source)[1]
    arguments = [*function.args.posonlyargs, *function.args.args]
    static = any(_is_name(decorator, "staticmethod") for decorator in function.decorator_list)
    return "" if static or not arguments else arguments[0].arg


def attributes_read(source: str) -> set[str]:
    """Attributes of its object that a method reads; ``*`` for an access by computed name."""
    own, nodes = _self_name(source), _nodes(source)
    names = {n.attr for n in nodes if isinstance(n, ast.Attribute) and _is_name(n.value, own)}
    calls = [n for n in nodes if isinstance(n, ast.Call) and _is_name(n.func, "getattr", "vars")]
    return names | {"*" for n in calls if n.args and _is_name(n.args[0], own)}


def attributes_stored(source: str) -> set[str]:
    """Attributes of any object that a method sets or deletes; ``*`` for one by computed name."""
    stored = {n.attr for n in _nodes(source) if isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load)}
    return stored | {"*" for node in _nodes(source) if _is_call(node, "setattr", "delattr")}


def all_attributes(source: str) -> set[str]:
    """Attributes of any object that a method uses."""
    return {node.attr for node in _nodes(source) if isinstance(node, ast.Attribute)}


def super_calls(source: str) -> list[str]:
    """Names of the methods that are called by ``super()``."""
    return [n.attr for n in _nodes(source) if isinstance(n, ast.Attribute) and _is_call(n.value, "super")]


def _is_name(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and _is_name(node.func, *names)


def fold(source: str, known: Mapping[str, Any]) -> str:
    """A method without the branches that are never taken, where some attributes of its object are known."""
    return cst.parse_module(source).visit(_Fold(_self_name(source), known)).code


class _Fold(cst.CSTTransformer):
    def __init__(self, own: str, known: Mapping[str, Any]) -> None:
        super().__init__()
        self._scope = {"__builtins__": {}, own: SimpleNamespace(**known)}
        self._elifs: set[cst.CSTNode] = set()

    def visit_If(self, node: cst.If) -> None:
        if isinstance(node.orelse, cst.If):
            self._elifs.add(node.orelse)

    def leave_If(self, original_node: cst.If, updated_node: cst.If) -> Any:
        taken = self._truth(updated_node.test)
        if taken is None:
            return updated_node
        left = updated_node.body if taken else updated_node.orelse
        if original_node in self._elifs:
            return cst.Else(updated_node.body) if taken else left or cst.RemoveFromParent()
        statements = _statements(left)
        if statements:
            comments = [*updated_node.leading_lines, *statements[0].leading_lines]
            statements[0] = statements[0].with_changes(leading_lines=comments)
        return cst.FlattenSentinel(statements)

    def leave_IfExp(self, original_node: cst.IfExp, updated_node: cst.IfExp) -> cst.BaseExpression:
        taken = self._truth(updated_node.test)
        if taken is None:
            return updated_node
        left = updated_node.body if taken else updated_node.orelse
        if isinstance(left, (cst.Name, cst.Integer, cst.Float)):
            return left
        return left.with_changes(lpar=[*updated_node.lpar, *left.lpar], rpar=[*left.rpar, *updated_node.rpar])

    def leave_IndentedBlock(
        self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock
    ) -> cst.IndentedBlock:
        for i, line in enumerate(updated_node.body):
            if isinstance(line, cst.SimpleStatementLine) and isinstance(line.body[-1], (cst.Return, cst.Raise)):
                return updated_node.with_changes(body=updated_node.body[: i + 1])
        return updated_node

    def _truth(self, test: cst.BaseExpression) -> bool | None:
        return _truth(ast.parse(f"({cst.Module([]).code_for_node(test)})", mode="eval").body, self._scope)


def _statements(branch: cst.If | cst.Else | cst.BaseSuite | None) -> list[Any]:
    match branch:
        case cst.If():
            return [branch]
        case cst.Else(body=body):
            return _statements(body)
        case cst.SimpleStatementSuite(body=body, trailing_whitespace=comment):
            return [cst.SimpleStatementLine(body, trailing_whitespace=comment)]
    return list(branch.body) if branch else []


_PURE = (ast.Attribute, ast.Name, ast.Constant, ast.Compare, ast.UnaryOp, ast.cmpop, ast.unaryop, ast.expr_context)


def _truth(test: ast.expr, scope: dict[str, Any]) -> bool | None:
    """Whether a condition is true; None where its value is unknown."""
    if isinstance(test, ast.BoolOp):
        values = [_truth(value, scope) for value in test.values]
        decisive = isinstance(test.op, ast.Or)
        return decisive if decisive in values else None if None in values else not decisive
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _truth(test.operand, scope)
        return None if inner is None else not inner
    if not all(isinstance(node, _PURE) for node in ast.walk(test)):
        return None
    try:
        return bool(eval(compile(ast.Expression(test), "<condition>", "eval"), scope))
    except Exception:  # an attribute that is not known
        return None
