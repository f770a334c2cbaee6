"""The classes of the file: modules of a kind that differ in plain values only share one class."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from nas.export.python.code import WIDTH, call, is_identifier, is_plain, join, parsed, plain, signature, structure, text
from nas.export.python.layers import CONTAINERS, attributes_set, constructor, container, shortened, torch_name
from nas.export.python.names import Names
from nas.export.python.read import OwnModule, attributes_read, find_own_modules, folded, located, torch_base

NETWORK = "Network"
MAX_VARIANTS = 3  # classes that differ in structure alone; if there are more, the modules inside become parameters
MAX_VALUES = 1024  # values of a tensor outside the state dict, which are written into the file
Group = list[OwnModule]  # modules that share a class


def class_sources(network: nn.Module, names: Names, endings: Sequence[str]) -> list[str]:
    """The classes of a network; the last one is ``Network``, and its constructor ends with the lines in `endings`."""
    modules, used, stored = find_own_modules(network)
    calls, sources = dict[int, ast.Call](), list[str]()
    for height in sorted({own.height for own in modules}):
        level = [own for own in modules if own.height == height]
        for own in level:
            with located(own.path, own.module):
                set_body(own, used, calls, names)
        for group in _groups(level):
            with located(group[0].path, group[0].module):
                sources.append(_class(group, calls, names, used, stored, endings))
    return sources


def _groups(level: Iterable[OwnModule]) -> list[Group]:
    alike: dict[Any, dict[Any, Group]] = {}
    for own in level:
        outer = (own.path == "", type(own.module), own.base, frozenset(own.body))
        inner = tuple((name, structure(value)) for name, value in own.body.items())
        alike.setdefault(outer, {}).setdefault(inner, []).append(own)
    result = []
    for variants in alike.values():
        groups = list(variants.values())
        registered = any(map(is_registered, groups[0][0].body.values()))  # such an attribute cannot be a parameter
        if len(groups) > MAX_VARIANTS and groups[0][0].base is nn.Module and not registered:
            groups = [list(itertools.chain(*groups))]
            # the order of attributes is that of the module with most children, which are None in other modules
            order = max(groups[0], key=lambda own: sum(isinstance(value, ast.Call) for value in own.body.values())).body
            for own in groups[0]:
                own.body = {name: own.body[name] for name in order}
        result += groups
    return result


def _class(
    group: Group, calls: dict[int, ast.Call], names: Names, used: set[str], stored: set[str], endings: Sequence[str]
) -> str:
    """The class of a group; the calls that build its modules are added."""
    first = group[0]
    methods = folded(group, stored)
    read = used.union(*[attributes_read(source) for source, _ in methods.values()])
    unread = set() if "*" in read else first.attributes.keys() - read
    shared, columns = join([{k: v for k, v in own.body.items() if k not in unread} for own in group])
    name = NETWORK if not first.path else names.free(type(first.module).__name__.lstrip("_") or "Part")
    for i, own in enumerate(group):
        calls[id(own.module)] = call(name, **{key: column[i] for key, column in columns.items()})
    base = first.base
    written = [names.rewritten(source, function.__module__) for source, function in methods.values()]
    if not first.path and base is nn.Sequential and not methods:
        base, shared, written = _unrolled(shared)
    lines = [f"class {name}({torch_name(base)}):", *_docstring(type(first.module), name)]
    if buffers := [key for key, value in shared.items() if is_registered(value, "register_buffer")]:
        lines += ["", *[f"    {key}: Tensor" for key in buffers]]
    statements = [] if "" in shared else ["super().__init__()"]
    statements += [statement(key, shortened(value)) for key, value in shared.items()]
    statements += [] if first.path else endings
    if len(statements) > 1 or shared:
        lines += ["", *signature(columns), *[f"        {line}" for line in statements]]
    for source in written:
        lines += ["", textwrap.indent(source.rstrip("\n"), "    ")]
    return "\n".join(lines) + "\n"


def _unrolled(shared: dict[str, ast.expr]) -> tuple[type[nn.Module], dict[str, ast.expr], list[str]]:
    """Turns a sequence of named modules into a class whose forward calls them; a sequence of numbered modules stays as it is."""
    match shared[""]:
        case ast.Call(args=[ast.Call(func=ast.Name(id="OrderedDict"), keywords=[_, *_] as children)]):
            lines = [f"    x = self.{child.arg}(x)\n" for child in children]
            forward = f"def forward(self, x: Tensor) -> Tensor:\n{''.join(lines)}    return x\n"
            return nn.Module, {str(child.arg): child.value for child in children}, [forward]
    return nn.Sequential, shared, []


def _docstring(kind: type, name: str) -> list[str]:
    """The first paragraph of a class's own docstring, or its name in words."""
    own = None if kind.__module__.startswith("torch.nn") else vars(kind).get("__doc__")
    words = re.sub("([a-z0-9])([A-Z])", r"\1 \2", kind.__name__.lstrip("_")).lower() if own is None else ""
    said = inspect.cleandoc(own).split("\n\n")[0] if own else f"The {words if name != NETWORK else 'network'}."
    said = re.sub(r":\w+:`[~.]*([^`]*)`", r"\1", said.replace("\\", "\\\\").replace('"""', "'''"))
    said = re.sub(r'"$', '" ', " ".join(said.split()))
    if len(said) + 10 <= WIDTH:
        return [f'    """{said}"""']
    first, *others = textwrap.wrap(said, WIDTH - 4 - 3)
    return [f'    """{first}', *[f"    {line}" for line in others], '    """']


def plain_attributes(own: OwnModule, by_base: set[str], used: set[str]) -> dict[str, Any]:
    """Attributes of a module that its methods read and its base does not set; `used` are the names that any method uses."""
    module, values = own.module, vars(own.module)
    reads = {name for source, _ in own.methods.values() for name in attributes_read(source)}
    plain_names = {name for name, value in values.items() if is_plain(value)}
    reads |= plain_names if "*" in reads else plain_names & used
    registered = {**module._parameters, **module._buffers, **module._modules}
    skipped = {*vars(nn.Module()), *own.methods, *registered, "*"}
    result = {}
    for name in [name for name in values if name in reads] + sorted(reads - set(values)):
        inherited = name in by_base if name in values else hasattr(own.base, name)
        if name not in skipped and not inherited and hasattr(module, name):  # a method may ask whether it exists
            result[name] = getattr(module, name)
    return result | {name: None for name, item in registered.items() if item is None and name not in by_base}


def set_body(own: OwnModule, used: set[str], calls: Mapping[int, ast.Call], names: Names) -> None:
    """Finds the values that the constructor of a module's class sets, in order; `calls` map ids of modules to calls of their classes."""
    module, result, by_base = own.module, own.body, attributes_set(own.module, own.base)
    own.attributes = plain_attributes(own, by_base, used)
    if own.base is not nn.Module:
        result[""] = _built(module, own.base, own.path, calls)
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
    for name, child in module._modules.items():
        if child is not None and name not in by_base and own.base not in CONTAINERS:
            value = expression(child, f"{own.path}.{name}" if own.path else name, calls)
            result[name] = value if is_identifier(name) else call("self.add_module", plain(name), value)


def expression(module: nn.Module, path: str, calls: Mapping[int, ast.Call]) -> ast.Call:
    """The expression that builds a module."""
    if id(module) in calls:
        return calls[id(module)]
    with located(path, module):
        return _built(module, torch_base(module), path, calls)


def _built(module: nn.Module, base: type[nn.Module], path: str, calls: Mapping[int, ast.Call]) -> ast.Call:
    if base not in CONTAINERS:
        return constructor(module, base)
    prefix, children = f"{path}." if path else "", module._modules.items()
    return container(module, base, {k: expression(v, f"{prefix}{k}", calls) for k, v in children if v is not None})


def _empty(tensor: Tensor) -> ast.Call:
    """A tensor of the same shape and type; its values come from the state dict."""
    sizes = [plain(size) for size in tensor.shape] or [plain(())]
    dtype = {} if tensor.dtype == torch.get_default_dtype() else {"dtype": plain(tensor.dtype)}
    return call("torch.zeros", *sizes, **dtype)


def _values(name: str, tensor: Tensor) -> ast.Call:
    if tensor.numel() > MAX_VALUES:
        raise ValueError(f"tensor {name!r} is not in the state dict; over {MAX_VALUES} values must be persistent")
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
    return text(value).startswith(f"self.{how}")
