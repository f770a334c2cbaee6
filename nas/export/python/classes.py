"""One class for all modules of a kind that differ in plain values only; what differs becomes the constructor's parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from torch import nn

from nas.export.python.bodies import Body, body, plain_attributes
from nas.export.python.class_text import NETWORK, class_text
from nas.export.python.expressions import (
    Argument,
    Call,
    Expression,
    Literal,
    Name,
    is_plain_name,
    literals,
    skeleton,
    with_literals,
)
from nas.export.python.names import Names, module_of
from nas.export.python.parts import Part, find_parts, located
from nas.export.python.source import PRESENT, attributes_read, attributes_stored, fold


@dataclass
class _Group:
    """Parts that share a class: same code, same structure.

    Attributes:
        parts: At least one.
        attributes: Plain attributes of each.
        bodies: What the constructor of each sets.
    """

    parts: list[Part]
    attributes: list[dict[str, Any]]
    bodies: list[Body]

    def join(self, other: _Group) -> None:
        """Adds the parts of another group."""
        self.parts += other.parts
        self.attributes += other.attributes
        self.bodies += other.bodies


def class_sources(network: nn.Module, names: Names) -> list[str]:
    """The text of the classes of a network, the network's own last and called ``Network``.

    Args:
        network: The network.
        names: Those of the file; what the classes use is added.

    Raises:
        ValueError: A module that cannot be written; the message names its place.
    """
    parts = find_parts(network)
    stored = {
        name for part in parts.values() for source, _ in part.methods.values() for name in attributes_stored(source)
    }
    calls: dict[int, Call] = {}
    sources = []
    for height in sorted({part.height for part in parts.values()}):
        for group in _groups([part for part in parts.values() if part.height == height], calls, names):
            sources.append(_write(group, calls, names, stored))
    return sources


def _groups(parts: Sequence[Part], calls: Mapping[int, Call], names: Names) -> list[_Group]:
    groups: dict[Any, _Group] = {}
    for part in parts:
        with located(part.path, part.module):
            attributes = plain_attributes(part, [source for source, _ in part.methods.values()])
            made = body(part, attributes, calls, names)
        key = (
            part.path == "",
            type(part.module),
            tuple((name, skeleton(value)) for name, value in made.items()),
        )
        group = groups.setdefault(key, _Group([], [], []))
        group.parts.append(part)
        group.attributes.append(attributes)
        group.bodies.append(made)
    return _joined(list(groups.values()))


MAX_VARIANTS = 3
"""Classes that differ in structure alone; where there would be more, the modules inside become parameters."""


def _joined(groups: list[_Group]) -> list[_Group]:
    alike: dict[Any, list[_Group]] = {}
    for group in groups:
        first = group.parts[0]
        alike.setdefault((first.path == "", type(first.module), first.base, frozenset(group.bodies[0])), []).append(
            group
        )
    result = []
    for variants in alike.values():
        if len(variants) > MAX_VARIANTS and variants[0].parts[0].base is nn.Module:
            for other in variants[1:]:
                variants[0].join(other)
            variants = variants[:1]
            # in the order of one that has most modules: what is None elsewhere is set among them
            bodies = variants[0].bodies
            order = max(bodies, key=lambda made: sum(isinstance(value, Call) for value in made.values()))
            variants[0].bodies = [{name: made[name] for name in order} for made in bodies]
        result += variants
    return result


def _write(group: _Group, calls: dict[int, Call], names: Names, stored: set[str]) -> str:
    """The class of a group; the calls that build its parts are noted."""
    first = group.parts[0]
    with located(first.path, first.module):
        methods = _folded(group, stored)
        read = {name for source, _ in methods.values() for name in attributes_read(source)} | first.read_by_others
        bodies = [
            {k: v for k, v in made.items() if k not in attributes or k in read or "*" in read}
            for made, attributes in zip(group.bodies, group.attributes, strict=True)
        ]
        shared, parameters = _shared(bodies)
        kind = type(first.module)
        name = NETWORK if first.path == "" else names.free(kind.__name__.lstrip("_") or "Part")
        for i, part in enumerate(group.parts):
            arguments = [
                Argument(key, values[i], positional=len(parameters) == 1) for key, values in parameters.items()
            ]
            calls[id(part.module)] = Call(name, tuple(arguments))
        base = first.base
        written = {key: names.rewritten(source, module_of(function)) for key, (source, function) in methods.items()}
        if first.path == "" and base is nn.Sequential and not methods:
            base, shared, written = _unrolled(shared, names)
        for _, function in methods.values():
            names.origins[function.__module__] = None
        return class_text(name, base, kind, shared, parameters, written, names)


def _folded(group: _Group, stored: set[str]) -> dict[str, tuple[str, FunctionType]]:
    """The methods without branches that no part of the group takes."""
    first, known = group.parts[0], dict[str, Any]()
    for name, value in group.attributes[0].items():
        others = [other.get(name, PRESENT) for other in group.attributes]
        same = all(type(other) is type(value) and other == value for other in others)
        if same and (value is None or type(value) in (bool, int, float, str)):
            known[name] = value
    for held in ("_modules", "_parameters"):
        for name in getattr(first.module, held):
            if all(getattr(part.module, held).get(name) is not None for part in group.parts):
                known[name] = PRESENT
    known = {name: value for name, value in known.items() if name not in stored and "*" not in stored}
    return {name: (fold(source, known), function) for name, (source, function) in first.methods.items()}


def _shared(bodies: Sequence[Body]) -> tuple[Body, dict[str, list[Expression]]]:
    """The body that all have in common, and the parameters in it: name -> value for each of `bodies`."""
    parameters: dict[str, list[Expression]] = {}
    loose = [key for key in bodies[0] if len({repr(skeleton(made[key])) for made in bodies}) > 1]
    for key in loose:
        parameters[_free_name(key, parameters)] = [made[key] for made in bodies]
    columns = list(zip(*[list(_values(made, loose)) for made in bodies], strict=True))
    varying: dict[str, list[int]] = {}
    for i, column in enumerate(columns):
        if any(value != column[0][1] for _, value, _ in column):
            varying.setdefault(repr([value for _, value, _ in column]), []).append(i)
    new: list[tuple[Expression, bool]] = [
        (column[0][1], all(optional for _, _, optional in column)) for column in columns
    ]
    for places in varying.values():
        name = _parameter_name([columns[i][0][0] for i in places], parameters)
        parameters[name] = [value for _, value, _ in columns[places[0]]]
        for i in places:
            new[i] = (Name(name), False)
    queue = iter(new)
    return {
        key: Name(key) if key in loose else with_literals(made, queue) for key, made in bodies[0].items()
    }, parameters


def _values(made: Body, loose: Sequence[str]) -> Iterator[tuple[str, Literal, bool]]:
    """Plain values in a body: ``attribute`` or ``attribute argument``, the value, and whether it may be left out."""
    for key, expression in made.items():
        if key not in loose:
            for name, value, optional in literals(expression):
                yield f"{key} {name}" if name else key, value, optional


def _parameter_name(places: Sequence[str], taken: Mapping[str, Any]) -> str:
    """A name for a value that stands at several places, each ``attribute`` or ``attribute argument``."""
    words = [place.split(" ")[-1] for place in places]
    if {"in_channels", "out_channels"} <= set(words):
        wanted = "channels"
    elif {"in_features", "out_features"} <= set(words):
        wanted = "features"
    else:
        order = ("out_channels", "out_features", "in_channels", "in_features", "dilation", "kernel_size")
        wanted = next((word for word in order if word in words), words[0])
    if not is_plain_name(wanted) or wanted == "self":
        wanted = "value"
    attribute = places[0].split(" ")[0]
    if wanted in taken and is_plain_name(attribute) and not wanted.startswith(attribute):
        wanted = f"{attribute}_{wanted}"
    return _free_name(wanted, taken)


def _free_name(wanted: str, taken: Mapping[str, Any]) -> str:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}{number}"
    return name


def _unrolled(shared: Body, names: Names) -> tuple[type[nn.Module], Body, dict[str, str]]:
    """A sequence of named modules as a class whose forward calls them one by one; one of numbered modules stays a sequence."""
    call = shared[""]
    assert isinstance(call, Call)
    inner = call.arguments[0].value if len(call.arguments) == 1 else None
    if not isinstance(inner, Call) or inner.function != "OrderedDict" or not inner.arguments[0].name:
        return nn.Sequential, shared, {}
    tensor = names.standard("torch", "Tensor")
    calls = [f"    x = self.{argument.name}(x)" for argument in inner.arguments]
    source = "\n".join([f"def forward(self, x: {tensor}) -> {tensor}:", *calls, "    return x", ""])
    return nn.Module, {argument.name: argument.value for argument in inner.arguments}, {"forward": source}
