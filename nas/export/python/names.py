"""Global names that a function uses: imported if possible, otherwise written into the file too."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import libcst as cst
from libcst.helpers import get_full_name_for_node
from libcst.metadata import BaseAssignment, MetadataWrapper, ParentNodeProvider, ScopeProvider
from libcst.metadata.scope_provider import LocalScope
from torch import nn

from nas.export.python.code import free_name, is_plain, plain, text, unparsed
from nas.export.python.read import source_of

_INCLUDED = ("nas", "search_spaces", "torchvision", "__main__")  # packages whose code is written into the file
_PLAIN_MODULES = ("nas.supernet.candidates", "nas.export.plain")  # of the framework; their functions work without it
_NAMED = (type, FunctionType, BuiltinFunctionType)
_MISSING = object()

Import = tuple[str, str]  # ``from module import name`` or, without a name, ``import module``
_USUAL: Mapping[str, Import] = {
    "Path": ("pathlib", "Path"),
    "OrderedDict": ("collections", "OrderedDict"),
    "torch": ("torch", ""),
    "nn": ("torch", "nn"),
    "Tensor": ("torch", "Tensor"),
}


class Names:
    """The imports, constants and functions of one file; `replacements` maps functions to the functions that are written for them."""

    def __init__(self, replacements: Mapping[Any, Any], reserved: tuple[str, ...]) -> None:
        self.imports = dict(_USUAL)  # name in the file -> import; imports that the file does not use are not written
        self.definitions: list[str] = []  # each after those that it uses
        self.origins: dict[str, None] = {}  # packages that included code is from
        self._replacements = {id(key): value for key, value in replacements.items()}
        self._included: dict[Any, tuple[str, Any]] = {}  # with the item, so that no other one gets its id
        self._taken = {*reserved, *dir(builtins), *_USUAL}

    def free(self, wanted: str) -> str:
        """A name that nothing in the file has yet."""
        name = free_name(wanted, self._taken)
        self._taken.add(name)
        return name

    def add_import(self, module: str, name: str, wanted: str = "") -> str:
        """Adds an import; returns the name in the file."""
        dotted = f"{module}.{name}".strip(".")  # the same for "import torch.nn as nn" and "from torch import nn"
        for known, other in self.imports.items():
            if ".".join(other).strip(".") == dotted:
                return known
        free = self.free(wanted or name)
        self.imports[free] = module, name
        return free

    def rewritten(self, source: str, origin: str, new_name: str = "") -> str:
        """The source of a function or class with its names replaced, so that they have the same meaning as in the module of origin."""
        wrapper, module = MetadataWrapper(cst.parse_module(source)), sys.modules[origin]
        self.origins[origin.partition(".")[0]] = None
        parents, scopes = wrapper.resolve(ParentNodeProvider), wrapper.resolve(ScopeProvider)
        accesses = {access.node: access for scope in scopes.values() if scope for access in scope.accesses}
        changes: dict[cst.CSTNode, str] = {wrapper.module.body[0].name: new_name} if new_name else {}  # type: ignore[union-attr]
        for name in parents:  # in a fixed order, unlike the accesses of a scope
            if not isinstance(name, cst.Name) or name not in accesses:
                continue
            access = accesses[name]
            if _is_local(access.referents) or (name.value not in vars(module) and hasattr(builtins, name.value)):
                continue
            chain: list[cst.Name | cst.Attribute] = [name]
            while isinstance(parent := parents[chain[-1]], cst.Attribute) and parent.value is chain[-1]:
                chain.append(parent)
            try:
                length, new = self._meaning((get_full_name_for_node(chain[-1]) or "").split("."), module)
            except ValueError:
                if not access.is_annotation:
                    raise
                length, new = len(chain), self.add_import("typing", "Any")
            used = chain[length - 1]
            if _is_local(access.scope[new.partition(".")[0]]):
                raise ValueError(f"a local name hides {get_full_name_for_node(used)}; give the local one another name")
            changes[used] = new
        return wrapper.module.visit(_Replace(changes)).code

    def include(self, item: Any, name: str) -> str:
        """Writes a function, class or constant into the file; returns its name there."""
        item = self._replacements.get(id(item), item)
        key = (name, unparsed(plain(item))) if is_plain(item) else id(item)
        if key in self._included:
            return self._included[key][0]
        if is_plain(item):
            free = self.free(name)
            self._included[key] = free, item
            self.definitions.append(f"{free} = {text(plain(item), before=len(free) + 3)}\n")
            return free
        function = inspect.unwrap(item) if callable(item) else item
        if not isinstance(function, (FunctionType, type)) or (inspect.isclass(item) and issubclass(item, nn.Module)):
            raise ValueError(f"{name} is {type(item).__name__} and cannot be written into a file")
        if isinstance(function, FunctionType) and (function.__closure__ or "<locals>" in function.__qualname__):
            raise ValueError(f"{function.__qualname__} is made inside another function; define it in its module")
        if function.__module__.startswith("nas.") and function.__module__ not in _PLAIN_MODULES:
            raise ValueError(f"it uses nas.{function.__name__}, which works inside a supernet only")
        free = self.free(function.__name__)
        self._included[key] = free, item
        self.definitions.append(self.rewritten(source_of(function), function.__module__, free))
        return free

    def _meaning(self, words: list[str], module: ModuleType) -> tuple[int, str]:
        """The number of words of a dotted name to replace, and the new name for them."""
        for length, word in enumerate(words, start=1):
            found, item = _imported(module).get(word), getattr(module, word, _MISSING)
            if item is _MISSING:
                if found is None:
                    raise ValueError(f"{module.__name__} does not know the name {word}")
                item = _load(found)  # imported for type checkers only
            elif found is None or _load(found) is not item:  # the module assigned the name again
                found = (item.__module__ or "builtins", item.__name__) if isinstance(item, _NAMED) else None
            if found is not None and not is_included(found[0]):
                return length, self.add_import(*found, word)
            if not isinstance(item, ModuleType):
                return length, self.include(item, word)
            module = item
        raise ValueError(f"module {module.__name__} is used as a value")


def _is_local(assignments: Iterable[BaseAssignment]) -> bool:
    return any(isinstance(assignment.scope, LocalScope) for assignment in assignments)


class _Replace(cst.CSTTransformer):
    def __init__(self, changes: Mapping[cst.CSTNode, str]) -> None:
        super().__init__()
        self._changes = changes

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        if (new := self._changes.get(original_node)) is None:
            return updated_node
        return cst.parse_expression(new).with_changes(lpar=original_node.lpar, rpar=original_node.rpar)


def is_included(module: str) -> bool:
    """Whether a module's code is written into the file: the framework's code, and code that no package installs."""
    package = module.partition(".")[0]
    if package in _INCLUDED:
        return True
    files = (getattr(sys.modules.get(name), "__file__", None) for name in (module, package))
    origin = next(filter(None, files), None)  # a package without __init__.py has no file
    installed = {"site-packages", "dist-packages"}.intersection(Path(origin or "").parts)
    return package not in sys.stdlib_module_names and origin is not None and not installed


@cache
def _imported(module: ModuleType) -> dict[str, Import]:
    """Names that a module's import statements bind, those for type checkers included."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return {}
    result: dict[str, Import] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition(".")[0]
                result[alias.asname or package] = (alias.name if alias.asname else package, "")
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), module.__package__ or "")
            result |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
    return result


def _load(found: Import) -> Any:
    try:
        return pkgutil.resolve_name(":".join(found))
    except (ImportError, AttributeError):
        raise ValueError(f"{found[1] or found[0]} cannot be imported") from None
