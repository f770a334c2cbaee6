"""The statements in the constructor of a module's class."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from nas.export.python.code import call, is_identifier, is_plain, parsed, plain, text, unparsed
from nas.export.python.layers import CONTAINERS, attributes_set, constructor, container
from nas.export.python.modules import OwnModule, located, torch_base
from nas.export.python.names import Names
from nas.export.python.read import attributes_read

MAX_VALUES = 1024
"""Values of a tensor outside the state dict, which are written into the file."""

Body = dict[str, ast.expr]
"""Attribute -> value, or the call that registers the attribute; the empty name stands for the base's constructor."""


def plain_attributes(own: OwnModule, used: set[str]) -> dict[str, Any]:
    """Values that methods read of a module and that no constructor of torch sets; `used` are attributes that any method uses."""
    module, values = own.module, vars(own.module)
    reads = {name for source, _ in own.methods.values() for name in attributes_read(source)}
    plain_names = {name for name, value in values.items() if is_plain(value)}
    reads |= plain_names if "*" in reads else plain_names & used
    registered = (module._parameters, module._buffers, module._modules)
    skipped = {*vars(nn.Module()), *own.methods, "*"}.union(*registered)
    by_base = attributes_set(module, own.base)
    result = {}
    for name in [name for name in values if name in reads] + sorted(reads - set(values)):
        inherited = name in by_base if name in values else hasattr(own.base, name)
        if name not in skipped and not inherited and hasattr(module, name):  # a method may ask whether it exists
            result[name] = getattr(module, name)
    empty = [name for group in registered for name, item in group.items() if item is None and name not in by_base]
    return result | dict.fromkeys(empty)


def body(own: OwnModule, calls: Mapping[int, ast.Call], names: Names) -> Body:
    """What the constructor of a module's class sets, in order; `calls` build the modules with a class of their own, by their ids."""
    module, result = own.module, Body()
    by_base = attributes_set(module, own.base)
    children = {
        name: expression(child, f"{own.path}.{name}" if own.path else name, calls)
        for name, child in module._modules.items()
        if child is not None and (own.base in CONTAINERS or name not in by_base)
    }
    if own.base in CONTAINERS:
        result[""], children = container(module, own.base, children), {}
    elif own.base is not nn.Module:
        result[""] = constructor(module, own.base)
    for name, value in own.attributes.items():
        result[name] = _attribute(name, value, names)
    for name, parameter in module._parameters.items():
        if parameter is not None and name not in by_base:
            fixed = {} if parameter.requires_grad else {"requires_grad": plain(False)}
            result[name] = call("nn.Parameter", _empty(parameter), **fixed)
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in by_base:
            fixed = {"persistent": plain(False)} if name in module._non_persistent_buffers_set else {}
            value = _values(name, buffer) if fixed else _empty(buffer)
            result[name] = call("self.register_buffer", plain(name), value, **fixed)
    for name, child in children.items():
        result[name] = child if is_identifier(name) else call("self.add_module", plain(name), child)
    return result


def expression(module: nn.Module, path: str, calls: Mapping[int, ast.Call]) -> ast.Call:
    """The expression that builds a module."""
    if id(module) in calls:
        return calls[id(module)]
    with located(path, module):
        base = torch_base(module)
        if base not in CONTAINERS:
            return constructor(module, base)
        children = {k: expression(v, f"{path}.{k}", calls) for k, v in module._modules.items() if v is not None}
        return container(module, base, children)


def _empty(tensor: Tensor) -> ast.Call:
    """A tensor of the same shape and type; its values come from the state dict."""
    sizes = [plain(size) for size in tensor.shape] or [plain(())]
    dtype = {} if tensor.dtype == torch.get_default_dtype() else {"dtype": plain(tensor.dtype)}
    return call("torch.zeros", *sizes, **dtype)


def _values(name: str, tensor: Tensor) -> ast.Call:
    if tensor.numel() > MAX_VALUES:
        raise ValueError(
            f"tensor {name!r} is not in the state dict and has more than {MAX_VALUES} values; make it a persistent buffer"
        )
    return call("torch.tensor", plain(tensor.tolist()), dtype=plain(tensor.dtype))


def _attribute(name: str, value: Any, names: Names) -> ast.expr:
    if is_plain(value):
        return plain(value)
    if isinstance(value, Tensor):
        return _values(name, value)
    if isinstance(value, functools.partial):
        args = [_attribute(name, item, names) for item in (value.func, *value.args)]
        keywords = {key: _attribute(name, item, names) for key, item in value.keywords.items()}
        return call(names.add_import("functools", "partial"), *args, **keywords)
    called = getattr(value, "__name__", "")
    for dotted, package in (("nn.functional", nn.functional), ("torch", torch)):
        if callable(value) and getattr(package, called, None) is value:
            return parsed(f"{dotted}.{called}")
    if isinstance(value, FunctionType):
        return parsed(names.include(value, value.__name__))
    raise ValueError(f"attribute {name!r}, which its forward reads, is {type(value).__name__} and cannot be written")


def statement(name: str, value: ast.expr) -> str:
    """The line of a constructor that sets an attribute."""
    if name and not is_registered(value):
        return f"self.{name} = {text(value, indent=2, before=len(f'self.{name} = '))}"
    if isinstance(value, ast.Call) and not name:
        value = ast.Call(parsed("super().__init__"), value.args, value.keywords)
    return text(value, indent=2)


def is_registered(value: ast.expr, how: str = "") -> bool:
    """Whether a value of a body is a call that registers the attribute."""
    return unparsed(value).startswith(f"self.{how}")
