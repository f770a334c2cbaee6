"""The text of the classes: one for all modules of a kind that differ in plain values only."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

from torch import nn

from nas.export.python.bodies import Body, body, is_registered, plain_attributes, statement
from nas.export.python.code import WIDTH, call, kind_of
from nas.export.python.layers import shortened, torch_name
from nas.export.python.modules import OwnModule, find_own_modules, located, used_anywhere
from nas.export.python.names import Names, module_of
from nas.export.python.parameters import Parameters, structure
from nas.export.python.read import PRESENT, attributes_read, attributes_stored, fold

NETWORK = "Network"
MAX_VARIANTS = 3
"""Classes that differ in structure alone; where there would be more, the modules inside become parameters."""

Group = list[OwnModule]
"""Modules that share a class."""


def class_sources(network: nn.Module, names: Names, endings: Sequence[str]) -> list[str]:
    """The classes of a network, its own last and called ``Network``; `endings` end the constructor of that one."""
    modules = find_own_modules(network)
    used = used_anywhere(modules)
    stored = {name for own in modules for source, _ in own.methods.values() for name in attributes_stored(source)}
    calls: dict[int, ast.Call] = {}
    sources = []
    for height in sorted({own.height for own in modules}):
        level = [own for own in modules if own.height == height]
        for own in level:
            with located(own.path, own.module):
                own.attributes = plain_attributes(own, used)
                own.body = body(own, calls, names)
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
            # in the order of one with most modules: attributes that are None elsewhere are set among them
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
    methods = _folded(group, stored)
    read = used.union(*[attributes_read(source) for source, _ in methods.values()])
    parameters = Parameters()
    shared = {
        name: parameters.joined([own.body[name] for own in group], name, name)
        for name in first.body
        if name not in first.attributes or name in read or "*" in read
    }
    parameters.name()
    name = NETWORK if not first.path else names.free(type(first.module).__name__.lstrip("_") or "Part")
    for i, own in enumerate(group):
        values = {key: column[i] for key, column in parameters.columns.items()}
        calls[id(own.module)] = call(name, **values)
    base = first.base
    written = {key: names.rewritten(source, module_of(function)) for key, (source, function) in methods.items()}
    names.origins |= {function.__module__: None for _, function in methods.values()}
    if not first.path and base is nn.Sequential and not methods:
        base, shared, written = _unrolled(shared)
    lines = [f"class {name}({torch_name(base)}):", *_docstring(type(first.module), name)]
    if buffers := [key for key, value in shared.items() if is_registered(value, "register_buffer")]:
        lines += ["", *[f"    {key}: Tensor" for key in buffers]]
    statements = [statement(key, shortened(value)) for key, value in shared.items()]
    statements += [] if first.path else endings
    if "" not in shared:
        statements.insert(0, "super().__init__()")
    if len(statements) > 1 or shared:
        lines += ["", *_signature(parameters.columns), *[f"        {line}" for line in statements]]
    for source in written.values():
        lines += ["", textwrap.indent(source.rstrip("\n"), "    ")]
    return "\n".join(lines) + "\n"


def _folded(group: Group, stored: set[str]) -> dict[str, tuple[str, FunctionType]]:
    """The methods without branches that no module of the group takes."""
    facts = [_facts(own) for own in group]
    known = {
        name: value
        for name, value in facts[0].items()
        if not {name, "*"} & stored and all(name in other and repr(other[name]) == repr(value) for other in facts)
    }
    return {name: (fold(source, known), function) for name, (source, function) in group[0].methods.items()}


def _facts(own: OwnModule) -> dict[str, Any]:
    """What conditions may ask of a module and never changes."""
    simple = {n: v for n, v in own.attributes.items() if v is None or type(v) in (bool, int, float, str)}
    present = {**own.module._modules, **own.module._parameters}.items()
    return simple | {name: PRESENT for name, item in present if item is not None}


def _unrolled(shared: Body) -> tuple[type[nn.Module], Body, dict[str, str]]:
    """A sequence of named modules as a class whose forward calls them one by one; one of numbered modules stays a sequence."""
    match shared[""]:
        case ast.Call(args=[ast.Call(func=ast.Name(id="OrderedDict"), keywords=[_, *_] as children)]):
            lines = [f"    x = self.{child.arg}(x)\n" for child in children]
            forward = f"def forward(self, x: Tensor) -> Tensor:\n{''.join(lines)}    return x\n"
            return nn.Module, {str(child.arg): child.value for child in children}, {"forward": forward}
    return nn.Sequential, shared, {}


def _signature(columns: Mapping[str, Sequence[ast.expr]]) -> list[str]:
    words = ["self", *[f"{name}: {_annotation(values)}" for name, values in columns.items()]]
    line = f"    def __init__({', '.join(words)}) -> None:"
    return (
        [line]
        if len(line) <= WIDTH
        else ["    def __init__(", *[f"        {word}," for word in words], "    ) -> None:"]
    )


def _annotation(values: Sequence[ast.expr]) -> str:
    """The annotation of a parameter."""
    kinds = dict.fromkeys(kind_of(value) or _module_kind(value) for value in values)
    if sum(kind.startswith("nn.") for kind in kinds) > 1:
        kinds = dict.fromkeys("nn.Module" if kind.startswith("nn.") else kind for kind in kinds)
    return " | ".join(sorted(kinds, key=lambda kind: kind == "None"))


def _module_kind(value: ast.expr) -> str:
    function = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return function if function.startswith("nn.") else "nn.Module"


def _docstring(kind: type, name: str) -> list[str]:
    """The first paragraph of a class's own docstring, or its name in words."""
    own = vars(kind).get("__doc__") if not kind.__module__.startswith("torch.nn") else None
    words = re.sub("([a-z0-9])([A-Z])", r"\1 \2", kind.__name__.lstrip("_")).lower() if own is None else ""
    said = inspect.cleandoc(own).split("\n\n")[0] if own else f"The {words if name != NETWORK else 'network'}."
    said = re.sub(r":\w+:`[~.]*([^`]*)`", r"\1", said.replace("\\", "\\\\").replace('"""', "'''"))
    lines = textwrap.wrap(said, WIDTH - 4 - 3) or [said]
    if lines[-1].endswith('"'):
        lines[-1] += " "
    if len(lines) == 1 and len(lines[0]) + 10 <= WIDTH:
        return [f'    """{lines[0]}"""']
    return [f'    """{lines[0]}', *[f"    {line}" for line in lines[1:]], '    """']
