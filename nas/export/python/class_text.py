"""The text of one class."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nas.export.python.bodies import BUFFER, FIXED_BUFFER, Body
from nas.export.python.constructors import torch_name
from nas.export.python.expressions import WIDTH, Argument, Call, Expression, Literal, is_plain_name, literal, text
from nas.export.python.names import Names

NETWORK = "Network"


def class_text(
    name: str,
    base: type[nn.Module],
    kind: type,
    made: Body,
    parameters: Mapping[str, Sequence[Expression]],
    methods: Mapping[str, str],
    names: Names,
) -> str:
    """The source of a class.

    Args:
        name: Its name.
        base: The class of torch's that it extends.
        kind: The class whose docstring it takes.
        made: What its constructor sets.
        parameters: Of the constructor: name -> the values that it gets.
        methods: Their sources.
        names: Those of the file; imports are added.
    """
    lines = [f"class {name}({names.torch_name(torch_name(base))}):"]
    lines += [f"    {line}" for line in _docstring(kind, name)]
    if buffers := [key for key, value in made.items() if _is_buffer(value)]:
        tensor = names.standard("torch", "Tensor")
        lines += ["", *[f"    {key}: {tensor}" for key in buffers]]
    statements = [_statement(key, value) for key, value in made.items()]
    for value in made.values():
        _note_names(value, names)
    if "" not in made:
        statements.insert(0, "super().__init__()")
    if made:
        lines += ["", *_signature(parameters), *[f"        {statement}" for statement in statements]]
    for source in methods.values():
        lines += ["", textwrap.indent(source.rstrip("\n"), "    ")]
    return "\n".join(lines) + "\n"


def _is_buffer(value: Expression) -> bool:
    return isinstance(value, Call) and value.function in (BUFFER, FIXED_BUFFER)


def _statement(key: str, value: Expression) -> str:
    """What the constructor does for one attribute."""
    word = Argument("", literal(key), positional=True)
    if not key:
        assert isinstance(value, Call)
        return text(Call("super().__init__", value.arguments), indent=2)
    if _is_buffer(value):
        assert isinstance(value, Call)
        arguments = (word, *value.arguments)
        if value.function == FIXED_BUFFER:
            arguments = (*arguments, Argument("persistent", literal(False)))
        return text(Call("self.register_buffer", arguments), indent=2)
    if not is_plain_name(key):
        return text(Call("self.add_module", (word, Argument("", value, positional=True))), indent=2)
    target = f"self.{key} = "
    return target + text(value, indent=2, before=len(target))


def _signature(parameters: Mapping[str, Sequence[Expression]]) -> list[str]:
    words = ["self", *[f"{key}: {_type_of(values)}" for key, values in parameters.items()]]
    line = f"    def __init__({', '.join(words)}) -> None:"
    if len(line) <= WIDTH:
        return [line]
    joined = f"        {', '.join(words)}"
    inner = [joined] if len(joined) <= WIDTH else [f"        {word}," for word in words]
    return ["    def __init__(", *inner, "    ) -> None:"]


def _type_of(values: Sequence[Expression]) -> str:
    """The annotation of a parameter."""
    kinds = dict.fromkeys(
        _type_name(value.value)
        if isinstance(value, Literal)
        else (value.function if isinstance(value, Call) and value.function.startswith("nn.") else "nn.Module")
        for value in values
    )
    if sum(kind.startswith("nn.") for kind in kinds) > 1:
        kinds = dict.fromkeys("nn.Module" if kind.startswith("nn.") else kind for kind in kinds)
    return " | ".join(sorted(kinds, key=lambda kind: kind == "None"))


def _type_name(value: Any) -> str:
    if isinstance(value, tuple):
        kinds = sorted({_type_name(item) for item in value})
        return f"tuple[{kinds[0]}, ...]" if len(kinds) == 1 else "tuple"
    if value is None:
        return "None"
    return "torch.dtype" if type(value).__name__ == "dtype" else type(value).__name__


def _note_names(expression: Expression, names: Names) -> None:
    """Imports what an expression's functions need."""
    if not isinstance(expression, Call):
        if isinstance(expression, Literal) and "torch." in repr(expression.value):
            names.torch_name("torch.dtype")
        return
    package = expression.function.partition(".")[0]
    if package in ("nn", "torch"):
        names.torch_name(expression.function)
    elif expression.function == "OrderedDict":
        names.standard("collections", "OrderedDict")
    for argument in expression.arguments:
        if not argument.optional:
            _note_names(argument.value, names)


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
        return [f'"""{lines[0]}"""']
    return [f'"""{lines[0]}', *lines[1:], '"""']
