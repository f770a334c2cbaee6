"""What the constructor of a module's class sets."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from nas.export.python.constructors import constructor
from nas.export.python.expressions import Argument, Call, Expression, Name, is_literal, is_plain_name, items, literal
from nas.export.python.names import Names
from nas.export.python.parts import CONTAINERS, Part, located, torch_base
from nas.export.python.source import attributes_read

MAX_VALUES = 1024
"""Values of a tensor outside the state dict, which are written into the file."""

_NOTHING = object()

Body = dict[str, Expression]
"""Attribute -> value; the empty name is the call of the base's constructor."""


def plain_attributes(part: Part, sources: Iterable[str]) -> dict[str, Any]:
    """What methods read of a module that is neither a child, parameter nor buffer, nor torch's: name -> value."""
    module = part.module
    reads = {name for source in sources for name in attributes_read(source)}
    if "*" in reads:
        reads |= {name for name, value in vars(module).items() if is_literal(value)}
    others = {name for name in part.read_by_others - reads if is_literal(vars(module).get(name, _NOTHING))}
    reads |= others
    names = [name for name in vars(module) if name in reads] + sorted(reads - set(vars(module)))
    ours = set(vars(nn.Module())) | {"*"}
    result = {}
    for name in names:
        if name in ours or name in part.methods or any(name in held for held in _registered(module)):
            continue
        if name not in vars(module) and hasattr(part.base, name):
            continue
        if part.base is not nn.Module and name in vars(module) and name in _set_by_base(part):
            continue
        try:
            result[name] = getattr(module, name)
        except AttributeError:
            continue  # the method asks whether it is there, or never comes by
    for held in _registered(module):
        result |= {name: None for name, item in held.items() if item is None and name not in _set_by_base(part)}
    return result


def _registered(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    return module._parameters, module._buffers, module._modules


def _set_by_base(part: Part) -> set[str]:
    """Attributes, parameters, buffers and modules that the base's constructor sets."""
    if part.base in (nn.Module, *CONTAINERS):
        return set(vars(nn.Module()))
    with torch.device("meta"):
        fresh = part.base(**{a.name: a.value.value for a in constructor(part.module, part.base).arguments})  # type: ignore[union-attr]
    return {*vars(fresh), *fresh._parameters, *fresh._buffers, *fresh._modules}


def body(part: Part, attributes: Mapping[str, Any], calls: Mapping[int, Call], names: Names) -> dict[str, Expression]:
    """What the constructor sets, in order; the empty name is the call of the base's constructor.

    Args:
        part: The module.
        attributes: Its plain attributes.
        calls: How the parts inside it are built.
        names: Those of the file.

    Raises:
        ValueError: Something that cannot be written.
    """
    module, result = part.module, dict[str, Expression]()
    skipped: set[str] = set()
    if part.base in CONTAINERS:
        result[""] = container(module, part.base, part.path, calls)
        skipped = set(module._modules)
    elif part.base is not nn.Module:
        result[""] = constructor(module, part.base)
        skipped = _set_by_base(part)
    for name, value in attributes.items():
        result[name] = _attribute(name, value, names)
    for name, parameter in module._parameters.items():
        if parameter is not None and name not in skipped:
            arguments = [Argument("", _empty(parameter), positional=True)]
            if not parameter.requires_grad:
                arguments.append(Argument("requires_grad", literal(False)))
            result[name] = Call("nn.Parameter", tuple(arguments))
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in skipped:
            fixed = name in module._non_persistent_buffers_set
            value = _values(name, buffer) if fixed else _empty(buffer)
            result[name] = Call(FIXED_BUFFER if fixed else BUFFER, (Argument("", value, positional=True),))
    for name, child in _children(module):
        if name not in skipped:
            result[name] = expression(child, f"{part.path}.{name}" if part.path else name, calls)
    return result


BUFFER, FIXED_BUFFER = "register_buffer", "register_buffer, not persistent"


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All children, also one that is there twice."""
    return ((name, child) for name, child in module._modules.items() if child is not None)


def expression(module: nn.Module, path: str, calls: Mapping[int, Call]) -> Expression:
    """The expression that builds a module."""
    if id(module) in calls:
        return calls[id(module)]
    with located(path, module):
        base = torch_base(module)
        if base in CONTAINERS:
            return container(module, base, path, calls)
        return constructor(module, base)


def container(module: nn.Module, base: type[nn.Module], path: str, calls: Mapping[int, Call]) -> Call:
    """The expression that builds a Sequential, ModuleList or ModuleDict."""
    children = {name: expression(child, f"{path}.{name}" if path else name, calls) for name, child in _children(module)}
    if len(children) != len(module._modules):
        raise ValueError("a container with an empty place cannot be written")
    numbered = list(children) == [str(i) for i in range(len(children))]
    if base is nn.ModuleList:
        if not numbered:
            raise ValueError("a ModuleList whose numbers have gaps cannot be written")
        return items("nn.ModuleList", [items("[", list(children.values()))] if children else [])
    if base is nn.Sequential and numbered:
        return items("nn.Sequential", list(children.values()))
    arguments = tuple(Argument(name, value) for name, value in children.items())
    if base is nn.ModuleDict:
        return items("nn.ModuleDict", [Call("{", arguments)] if children else [])
    if all(is_plain_name(name) for name in children):
        return items("nn.Sequential", [Call("OrderedDict", arguments)])
    pairs = [items("", [literal(name), value]) for name, value in children.items()]
    return items("nn.Sequential", [items("OrderedDict", [items("[", pairs)])])


def _empty(tensor: Tensor) -> Call:
    """A tensor of the same shape and type; its values come from the state dict."""
    arguments = [Argument("", literal(size), positional=True) for size in tensor.shape]
    if not arguments:
        arguments.append(Argument("", literal(()), positional=True))
    if tensor.dtype != torch.get_default_dtype():
        arguments.append(Argument("dtype", literal(tensor.dtype)))
    return Call("torch.zeros", tuple(arguments))


def _values(name: str, tensor: Tensor) -> Call:
    if tensor.numel() > MAX_VALUES:
        raise ValueError(
            f"tensor {name!r} is not in the state dict and has more than {MAX_VALUES} values; make it a persistent buffer"
        )
    arguments = (
        Argument("", literal(tensor.tolist()), positional=True),
        Argument("dtype", literal(tensor.dtype)),
    )
    return Call("torch.tensor", arguments)


def _attribute(name: str, value: Any, names: Names) -> Expression:
    if is_literal(value):
        return literal(value)
    if isinstance(value, Tensor):
        return _values(name, value)
    if isinstance(value, functools.partial):
        arguments = [Argument("", _attribute(name, v, names), positional=True) for v in (value.func, *value.args)]
        arguments += [Argument(key, _attribute(name, v, names)) for key, v in value.keywords.items()]
        return Call(names.standard("functools", "partial"), tuple(arguments))
    called = getattr(value, "__name__", "")
    for dotted, package in (("nn.functional", nn.functional), ("torch", torch)):
        if callable(value) and getattr(package, called, None) is value:
            return Name(names.torch_name(f"{dotted}.{called}"))
    if isinstance(value, FunctionType):
        return Name(names.include(value, value.__name__))
    raise ValueError(f"attribute {name!r}, which its forward reads, is {type(value).__name__} and cannot be written")
