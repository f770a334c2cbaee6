"""Reads a network: the modules that need a class in the file, and the source of their methods without branches never taken."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any

import libcst as cst
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from nas.export.python.layers import CONTAINERS, is_torch_layer

Methods = dict[str, tuple[str, FunctionType]]  # name -> source and function

# the last of these reads old files
_UNWRITTEN = {"__init__", "__repr__", "extra_repr", "reset_parameters", "_load_from_state_dict"}
_STATE = {"state_dict", "load_state_dict", "_save_to_state_dict", "__getattr__", "__call__"}


class _Present:
    """An attribute of which nothing is known except that it is not None."""

    def __bool__(self, *_: object) -> bool:
        raise TypeError

    __eq__ = __bool__


PRESENT = _Present()


@cache
def source_of(item: Any) -> str:
    """Source of a function or class, not indented."""
    name = getattr(item, "__qualname__", repr(item))
    try:
        source = textwrap.dedent(inspect.getsource(item))
        if getattr(ast.parse(source).body[0], "name", "") == item.__name__:
            return source
    except (OSError, TypeError):
        raise ValueError(f"the source of {name} cannot be found; put it into a file of its own") from None
    except SyntaxError:
        pass
    raise ValueError(f"the source of {name} cannot be read; its file may have changed since it was imported")


@cache
def _nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(source)))


def _self_name(source: str) -> str:
    """The name of the first parameter of a method; empty for a static method."""
    function: Any = _nodes(source)[1]
    arguments = [*function.args.posonlyargs, *function.args.args]
    static = any(_is_name(decorator, "staticmethod") for decorator in function.decorator_list)
    return "" if static or not arguments else arguments[0].arg


def attributes_read(source: str) -> set[str]:
    """Attributes that a method reads of ``self``; ``*`` for an access by computed name."""
    own, nodes = _self_name(source), _nodes(source)
    names = {n.attr for n in nodes if isinstance(n, ast.Attribute) and _is_name(n.value, own)}
    calls = [n for n in nodes if isinstance(n, ast.Call) and _is_name(n.func, "getattr", "vars")]
    return names | {"*" for n in calls if n.args and _is_name(n.args[0], own)}


def attributes_stored(source: str) -> set[str]:
    """Attributes of any object that a method sets or deletes; ``*`` for an access by computed name."""
    stored = {n.attr for n in _nodes(source) if isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load)}
    return stored | {"*" for node in _nodes(source) if _is_call(node, "setattr", "delattr")}


def all_attributes(source: str) -> set[str]:
    """Attributes of any object that a method uses."""
    return {node.attr for node in _nodes(source) if isinstance(node, ast.Attribute)}


def _is_name(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and _is_name(node.func, *names)


def fold(source: str, known: Mapping[str, Any]) -> str:
    """A method without the branches that are never taken, given known attributes of ``self``."""
    return cst.parse_module(source).visit(_Fold(_self_name(source), known)).code


def folded(group: Sequence[OwnModule], stored: set[str]) -> Methods:
    """The methods of modules that share a class, without branches that none of them takes; `stored` attributes may change."""
    facts = []
    for own in group:
        simple = {n: v for n, v in own.attributes.items() if v is None or type(v) in (bool, int, float, str)}
        present = {**own.module._modules, **own.module._parameters}.items()
        facts.append(simple | {name: PRESENT for name, item in present if item is not None})
    shared = set.intersection(*[{(name, repr(value)) for name, value in each.items()} for each in facts])
    known = {n: v for n, v in facts[0].items() if (n, repr(v)) in shared and not {n, "*"} & stored}
    return {name: (fold(source, known), function) for name, (source, function) in group[0].methods.items()}


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
            otherwise = cst.Else(updated_node.body, leading_lines=updated_node.leading_lines)
            return otherwise if taken else left or cst.RemoveFromParent()
        if statements := _statements(left):
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

    def leave_IndentedBlock(self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock) -> Any:
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
    """Whether a condition is true; None if its value is unknown."""
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


@dataclass
class OwnModule:
    """A module that needs a class in the file; the class extends `base`."""

    path: str  # empty for the network itself
    module: nn.Module
    base: type[nn.Module]
    methods: Methods
    height: int  # levels of such modules inside it
    attributes: dict[str, Any] = field(default_factory=dict)
    # values, or registering calls; "" is the base's constructor
    body: dict[str, ast.expr] = field(default_factory=dict)


def find_own_modules(network: nn.Module) -> tuple[list[OwnModule], set[str], set[str]]:
    """Modules that need a class, inner ones first; the attributes of any object that their methods use; and those that they set."""
    found: dict[int, OwnModule] = {}
    _walk(network, "", found)
    before, used = None, set[str]()
    while used != before:  # methods may call methods of other modules, ``self.child.features(x)``
        for own in found.values():
            with located(own.path, own.module):
                own.methods = _methods(type(own.module), own.base, used)
        sources = [source for own in found.values() for source, _ in own.methods.values()]
        before, used = used, set().union(*map(all_attributes, sources))
    return list(found.values()), used, set().union(*map(attributes_stored, sources))


def _walk(module: nn.Module, path: str, found: dict[int, OwnModule]) -> int:
    """Adds a module and the modules inside it; returns the height of a module that contains it."""
    if id(module) in found:
        return found[id(module)].height + 1
    with located(path, module):
        base = torch_base(module)
        methods = _methods(type(module), base, set())
    own, height = not path or base is nn.Module or bool(methods), 0
    if own or base in CONTAINERS:
        for name, child in module.named_children():
            height = max(height, _walk(child, f"{path}.{name}" if path else name, found))
    if own:
        found[id(module)] = OwnModule(path, module, base, methods, height)
    return height + own


@contextmanager
def located(path: str, module: nn.Module) -> Iterator[None]:
    """Names the module in errors."""
    try:
        yield
    except ValueError as error:
        place = f"module {path!r}" if path else "the network"
        raise ValueError(f"{place} ({type(module).__name__}): {error}") from None


def torch_base(module: nn.Module) -> type[nn.Module]:
    """The class of torch that a module extends; a ValueError if its state cannot be written."""
    if any(is_lazy(tensor) for tensor in module.parameters(recurse=False)):
        raise ValueError("it has no shapes yet; call the network once before")
    if parametrize.is_parametrized(module):
        raise ValueError("it is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first")
    if any(getattr(module, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks")):
        raise ValueError("it has hooks; what they do cannot be written as source")
    for name in ("forward", "__call__"):
        if name in vars(module):
            raise ValueError(f"its {name} was replaced on the object; write a class instead")
    return next(base for base in type(module).__mro__ if base is nn.Module or is_torch_layer(base))


def _methods(kind: type, base: type, used: set[str]) -> Methods:
    """Methods that a class and its bases below `base` override, and methods whose name is in `used`."""
    result: Methods = {}
    owners = list(kind.__mro__[: kind.__mro__.index(base)])
    for i, owner in enumerate(owners):
        for name, item in vars(owner).items():
            special = name.startswith("__") and name.endswith("__") and isinstance(item, FunctionType)
            if name in _UNWRITTEN or name in result or not (name in used or hasattr(base, name) or special):
                continue
            if name in _STATE:
                raise ValueError(f"{owner.__name__}.{name} changes how weights are stored or modules are called")
            if isinstance(item, (FunctionType, staticmethod, classmethod, property)):
                result[name] = _method(owner, name, owners[i + 1 :])
    return result


def _method(owner: type, name: str, bases: Sequence[type]) -> tuple[str, FunctionType]:
    """Source and function of a method, which is written into a class without the bases in `bases`."""
    place, item = f"{owner.__name__}.{name}", vars(owner)[name]
    function = item.fget if isinstance(item, property) else getattr(item, "__func__", item)
    if not isinstance(function, FunctionType):
        raise ValueError(f"{place} is not a method with a source")
    if isinstance(item, classmethod) or (isinstance(item, property) and (item.fset or item.fdel)):
        raise ValueError(f"{place} is a class method or a property that can be set; write a plain method")
    if hasattr(function, "__wrapped__"):
        raise ValueError(f"{place} is decorated; what the decorator does cannot be written as source")
    if set(function.__code__.co_freevars) - {"__class__"} or "<locals>" in owner.__qualname__:
        raise ValueError(f"{owner.__name__} is made inside a function; define it in its module")
    source = source_of(function)
    if private := sorted(n for n in all_attributes(source) if n.startswith("__") and not n.endswith("__")):
        raise ValueError(f"{place} uses {private[0]}, whose name depends on its class; use one underscore")
    supers = {n.attr for n in _nodes(source) if isinstance(n, ast.Attribute) and _is_call(n.value, "super")}
    if called := sorted(supers & {attribute for base in bases for attribute in vars(base)}):
        raise ValueError(f"{place} calls super().{called[0]}, of another class of its own")
    return source, function
