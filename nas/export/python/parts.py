"""The modules of a network that need a class of their own in its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from nas.export.python.constructors import is_torch_layer
from nas.export.python.source import attributes_of_others, attributes_read, source_of, super_calls

CONTAINERS: tuple[type[nn.Module], ...] = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Methods = dict[str, tuple[str, FunctionType]]

_CALLABLE = (FunctionType, staticmethod, classmethod, property)

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
        read_by_others: Attributes that methods of any part read of anything.
    """

    path: str
    module: nn.Module
    base: type[nn.Module]
    methods: Methods
    height: int
    read_by_others: frozenset[str] = frozenset()


def find_parts(network: nn.Module) -> dict[int, Part]:
    """The parts of a network, inner ones first, by the modules' ids.

    Raises:
        ValueError: A module that cannot be written; the message names its place.
    """
    found: dict[int, Part] = {}
    _walk(network, "", found)
    while _add_called(found):
        pass
    return found


def _add_called(found: Mapping[int, Part]) -> bool:
    """Adds methods that others call on a part, ``self.child.features(x)``; whether there were any."""
    sources = [source for part in found.values() for source, _ in part.methods.values()]
    read = frozenset(name for source in sources for name in attributes_of_others(source))
    added = False
    for part in found.values():
        part.read_by_others = read
        owners = _owners(part)
        for name in read - set(part.methods) - _UNWRITTEN:
            owner = next((owner for owner in owners if name in vars(owner)), None)
            if owner is not None and not hasattr(part.base, name) and isinstance(vars(owner)[name], _CALLABLE):
                with located(part.path, part.module):
                    _add_method(part.methods, name, owner, owners)
                added = True
    return added


def _owners(part: Part) -> list[type]:
    """The module's own classes."""
    kind = type(part.module)
    return list(kind.__mro__[: kind.__mro__.index(part.base)])


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
            special = name.startswith("__") and name.endswith("__") and isinstance(item, FunctionType)
            if name in _UNWRITTEN or name in result or not (hasattr(base, name) or special):
                continue
            if name in _STATE:
                raise ValueError(f"{owner.__name__}.{name} changes how weights are stored or modules are called")
            if isinstance(item, _CALLABLE):
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
    if isinstance(item, classmethod) or (isinstance(item, property) and (item.fset or item.fdel)):
        raise ValueError(
            f"{owner.__name__}.{name} is a class method or a property that can be set; write a plain method"
        )
    if hasattr(function, "__wrapped__"):
        raise ValueError(f"{owner.__name__}.{name} is decorated; what the decorator does cannot be written as source")
    if set(function.__code__.co_freevars) - {"__class__"} or "<locals>" in owner.__qualname__:
        raise ValueError(f"{owner.__name__} is made inside a function; define it in its module")
    source = source_of(function)
    if private := [word for word in attributes_of_others(source) if word.startswith("__") and not word.endswith("__")]:
        raise ValueError(
            f"{owner.__name__}.{name} uses {private[0]}, whose name depends on its class; use one underscore"
        )
    methods[name] = (source, function)
    for called in super_calls(source):
        behind = owners[owners.index(owner) + 1 :]
        if any(called in vars(other) for other in behind):
            raise ValueError(f"{owner.__name__}.{name} calls super().{called}, of another class of its own")
    for read in attributes_read(source):
        holder = next((other for other in owners if read in vars(other)), None)
        if holder is None or read in methods or read in _UNWRITTEN:
            continue
        if isinstance(vars(holder)[read], _CALLABLE):
            _add_method(methods, read, holder, owners)
