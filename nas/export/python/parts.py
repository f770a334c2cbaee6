"""The modules of a network that need a class of their own in its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from nas.export.python.constructors import is_torch_layer
from nas.export.python.source import attributes_read, source_of, super_calls

CONTAINERS: tuple[type[nn.Module], ...] = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Methods = dict[str, tuple[str, FunctionType]]

_UNWRITTEN = {
    "__init__",
    "__repr__",
    "extra_repr",
    "reset_parameters",
    "_load_from_state_dict",
}  # the last: for old files
_STATE = {"state_dict", "load_state_dict", "_save_to_state_dict", "__getattr__", "__call__"}


@dataclass
class Part:
    """A module with a class of its own.

    Attributes:
        path: Its place in the network; empty for the network itself.
        module: The module.
        base: The class of torch's that it extends.
        methods: Name -> source and function, those that its forward needs.
        height: The number of such modules below each other inside it.
    """

    path: str
    module: nn.Module
    base: type[nn.Module]
    methods: Methods
    height: int


def find_parts(network: nn.Module) -> dict[int, Part]:
    """The parts of a network, inner ones first, by the modules' ids.

    Raises:
        ValueError: A module that cannot be written; the message names its place.
    """
    found: dict[int, Part] = {}
    _walk(network, "", found)
    return found


def _walk(module: nn.Module, path: str, found: dict[int, Part]) -> int:
    if id(module) in found:
        return found[id(module)].height + 1
    with located(path, module):
        base = torch_base(module)
        own = not path or base is nn.Module or bool(_overrides(type(module), base))
    height = 0
    if own or base in CONTAINERS:
        for name, child in module.named_children():
            height = max(height, _walk(child, f"{path}.{name}" if path else name, found))
    if not own:
        return height
    with located(path, module):
        found[id(module)] = Part(path, module, base, _methods(type(module), base), height)
    return height + 1


@contextmanager
def located(path: str, module: nn.Module) -> Iterator[None]:
    """Says in errors which module they are about."""
    try:
        yield
    except ValueError as error:
        place = f"module {path!r}" if path else "the network"
        raise ValueError(f"{place} ({type(module).__name__}): {error}") from None


def torch_base(module: nn.Module) -> type[nn.Module]:
    """The class of torch's that a module extends, after a look at what cannot be written."""
    if any(is_lazy(tensor) for tensor in module.parameters(recurse=False)):
        raise ValueError("it has no shapes yet; call the network once before")
    if parametrize.is_parametrized(module):
        raise ValueError("it is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first")
    if any(getattr(module, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks")):
        raise ValueError("it has hooks; what they do cannot be written as source")
    for name in ("forward", "__call__"):
        if name in vars(module):
            raise ValueError(f"its {name} was replaced on the object; write a class instead")
    for base in type(module).__mro__:
        if base is nn.Module or is_torch_layer(base):
            return base
    raise ValueError("it is no torch.nn.Module")


def _overrides(kind: type, base: type) -> dict[str, type]:
    """What a class and its bases below `base` change of how it works: name -> the class that says so."""
    result: dict[str, type] = {}
    for owner in kind.__mro__[: kind.__mro__.index(base)]:
        for name, item in vars(owner).items():
            if name in _UNWRITTEN or name in result or not hasattr(base, name):
                continue
            if name in _STATE:
                raise ValueError(f"{owner.__name__}.{name} changes how weights are stored or modules are called")
            if isinstance(item, (FunctionType, staticmethod, classmethod, property)):
                result[name] = owner
    return result


def _methods(kind: type, base: type) -> Methods:
    """Sources of what a class overrides, and of its other methods that those call."""
    methods: Methods = {}
    owners = list(kind.__mro__[: kind.__mro__.index(base)])
    for name, owner in _overrides(kind, base).items():
        _add_method(methods, name, owner, owners)
    return methods


def _add_method(methods: Methods, name: str, owner: type, owners: Sequence[type]) -> None:
    item = vars(owner)[name]
    function = item.fget if isinstance(item, property) else getattr(item, "__func__", item)
    if not isinstance(function, FunctionType):
        raise ValueError(f"{owner.__name__}.{name} is not a method with a source")
    if set(function.__code__.co_freevars) - {"__class__"} or "<locals>" in owner.__qualname__:
        raise ValueError(f"{owner.__name__} is made inside a function; define it in its module")
    source = source_of(function)
    methods[name] = (source, function)
    for called in super_calls(source):
        behind = owners[owners.index(owner) + 1 :]
        if any(called in vars(other) for other in behind):
            raise ValueError(f"{owner.__name__}.{name} calls super().{called}, of another class of its own")
    for read in attributes_read(source):
        holder = next((other for other in owners if read in vars(other)), None)
        if holder is None or read in methods or read in _UNWRITTEN:
            continue
        if isinstance(vars(holder)[read], (FunctionType, staticmethod, classmethod, property)):
            _add_method(methods, read, holder, owners)
