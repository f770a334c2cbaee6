"""The modules of a network that need a class of their own in its file, and the methods of these classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from nas.export.python.layers import CONTAINERS, is_torch_layer
from nas.export.python.read import all_attributes, source_of, super_calls

Methods = dict[str, tuple[str, FunctionType]]
"""Name -> source and function."""

_UNWRITTEN = {
    "__init__",
    "__repr__",
    "extra_repr",
    "reset_parameters",
    "_load_from_state_dict",
}  # the last: for old files
_STATE = {"state_dict", "load_state_dict", "_save_to_state_dict", "__getattr__", "__call__"}


@dataclass
class OwnModule:
    """A module that needs a class of its own.

    Attributes:
        path: Its place in the network; empty for the network itself.
        module: The module.
        base: The class of torch that it extends.
        methods: The methods that its forward needs.
        height: The number of such modules below each other inside it.
        attributes: Plain attributes that methods read; the writer of classes sets them.
        body: What the constructor sets; the writer of classes sets it.
    """

    path: str
    module: nn.Module
    base: type[nn.Module]
    methods: Methods
    height: int
    attributes: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


def find_own_modules(network: nn.Module) -> list[OwnModule]:
    """The modules with a class of their own, inner ones first."""
    found: dict[int, OwnModule] = {}
    _walk(network, "", found)
    before, used = None, used_anywhere(found.values())
    while used != before:  # methods may call methods of other modules, ``self.child.features(x)``
        for own in found.values():
            with located(own.path, own.module):
                own.methods = _methods(type(own.module), own.base, used)
        before, used = used, used_anywhere(found.values())
    return list(found.values())


def used_anywhere(modules: Iterable[OwnModule]) -> set[str]:
    """Attributes of any object that a method of any of the modules uses."""
    return {name for own in modules for source, _ in own.methods.values() for name in all_attributes(source)}


def _walk(module: nn.Module, path: str, found: dict[int, OwnModule]) -> int:
    """Adds a module and those inside it; one more than the height of the highest."""
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
    """The class of torch that a module extends; a ValueError where its state cannot be written."""
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
    """Methods that a class and its bases below `base` change, and those that are used somewhere."""
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
    """Source and function of a method, where it can be written into a class without those bases of its own."""
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
    if private := [word for word in all_attributes(source) if word.startswith("__") and not word.endswith("__")]:
        raise ValueError(f"{place} uses {private[0]}, whose name depends on its class; use one underscore")
    for called in super_calls(source):
        if any(called in vars(base) for base in bases):
            raise ValueError(f"{place} calls super().{called}, of another class of its own")
    return source, function
