"""Names that a function uses from outside: imported where possible, otherwise written into the file too."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
import sysconfig
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

from nas.export.python.code import is_plain, plain, text, unparsed
from nas.export.python.read import source_of

INCLUDED = ("nas", "search_spaces", "torchvision")
"""Packages whose code is written into the file instead of being imported from it."""

_PLAIN_MODULES = ("nas.supernet.candidates", "nas.export.plain")
"""Modules of the framework whose functions work without it."""
_MISSING = object()
_NAMED = (type, FunctionType, BuiltinFunctionType)


Import = tuple[str, str]
"""``from module import name`` or, without a name, ``import module``."""

USUAL: Mapping[str, Import] = {
    "Path": ("pathlib", "Path"),
    "OrderedDict": ("collections", "OrderedDict"),
    "torch": ("torch", ""),
    "nn": ("torch", "nn"),
    "Tensor": ("torch", "Tensor"),
}
"""Imports that every file may use, by their names there; imports that a file does not use are not written."""


class Names:
    """The imports, constants, functions and classes of one file.

    Args:
        replacements: Functions that replace others.
        reserved: Names that are taken already.

    Attributes:
        imports: Name in the file -> import.
        definitions: Text of constants, functions and classes, each after those that it uses.
        origins: Modules that the included code is from.
    """

    def __init__(self, replacements: Mapping[Any, Any], reserved: tuple[str, ...]) -> None:
        self.imports = dict(USUAL)
        self.definitions: list[str] = []
        self.origins: dict[str, None] = {}
        self._replacements = {id(key): value for key, value in replacements.items()}
        self._included: dict[Any, tuple[str, Any]] = {}  # with the item, so that no other one gets its id
        self._taken = {*reserved, *dir(builtins), *USUAL}

    def free(self, wanted: str) -> str:
        """A name that nothing in the file has yet."""
        name = free_name(wanted, self._taken)
        self._taken.add(name)
        return name

    def add_import(self, module: str, name: str, wanted: str = "") -> str:
        """Imports something; its name in the file."""
        for known, other in self.imports.items():
            if _dotted(other) == _dotted((module, name)):
                return known
        free = self.free(wanted or name)
        self.imports[free] = module, name
        return free

    def rewritten(self, source: str, module: ModuleType) -> str:
        """The source of a function or class whose names mean in this file what they meant in `module`, where it was written."""
        wrapper = MetadataWrapper(cst.parse_module(source))
        parents, scopes = wrapper.resolve(ParentNodeProvider), wrapper.resolve(ScopeProvider)
        accesses = {access.node: access for scope in scopes.values() if scope for access in scope.accesses}
        changes: dict[cst.CSTNode, str] = {}
        for name in parents:  # in a fixed order, which the accesses of a scope do not have
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
                raise ValueError(f"a local name hides {_code(used)}; give the local one another name")
            if _code(used) != new:
                changes[used] = new
        return wrapper.module.visit(_Replace(changes)).code

    def include(self, item: Any, name: str) -> str:
        """Writes a function, class or constant into the file; its name there."""
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
        source = self.rewritten(source_of(function), module_of(function))
        keyword = "class" if isinstance(function, type) else "def"
        self.definitions.append(
            re.sub(rf"^({keyword}|async def) {function.__name__}\b", rf"\1 {free}", source, count=1, flags=re.M)
        )
        self.origins[function.__module__] = None
        return free

    def _meaning(self, words: list[str], module: ModuleType) -> tuple[int, str]:
        """The number of words of a dotted name that are replaced, and the name that replaces them."""
        for length, word in enumerate(words, start=1):
            found, item = _imported(module).get(word), getattr(module, word, _MISSING)
            if item is _MISSING:
                if found is None:
                    raise ValueError(f"{module.__name__} does not know the name {word}")
                item = _load(found)  # imported for type checkers only
            elif found is None or _load(found) is not item:  # bound anew after the import
                found = (item.__module__ or "builtins", item.__name__) if isinstance(item, _NAMED) else None
            if found is not None and not is_included(found[0]):
                return length, self.add_import(*found, word)
            if not isinstance(item, ModuleType):
                return length, self.include(item, word)
            module = item
        raise ValueError(f"module {module.__name__} is used as a value")


def _code(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)


def _is_local(assignments: Iterable[BaseAssignment]) -> bool:
    return any(isinstance(assignment.scope, LocalScope) for assignment in assignments)


class _Replace(cst.CSTTransformer):
    def __init__(self, changes: Mapping[cst.CSTNode, str]) -> None:
        super().__init__()
        self._changes = changes

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        if original_node not in self._changes:
            return updated_node
        new = cst.parse_expression(self._changes[original_node])
        return new.with_changes(lpar=original_node.lpar, rpar=original_node.rpar)


def free_name(wanted: str, taken: Any) -> str:
    """The name, with a number behind it where it is taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}{number}"
    return name


def is_included(module: str) -> bool:
    """Whether a module's code is written into the file: the framework's code, and code that no package installs."""
    package = module.partition(".")[0]
    if package in INCLUDED or package == "__main__":
        return True
    files = (getattr(sys.modules.get(name), "__file__", None) for name in (module, package))
    origin = next(filter(None, files), None)  # a package without __init__.py has no file
    if package in sys.stdlib_module_names or origin is None:
        return False
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    return not any(
        folder in installed or folder.name in ("site-packages", "dist-packages") for folder in Path(origin).parents
    )


def module_of(item: Any) -> ModuleType:
    """The module in which a function or class was written."""
    return sys.modules[item.__module__]


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
            source = "." * node.level + (node.module or "")
            if node.level:
                source = importlib.util.resolve_name(source, getattr(module, "__package__", "") or "")
            result |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
    return result


def _load(found: Import) -> Any:
    try:
        module = importlib.import_module(found[0])
        return getattr(module, found[1]) if found[1] else module
    except (ImportError, AttributeError):
        raise ValueError(f"{found[1] or found[0]} cannot be imported") from None


def _dotted(found: Import) -> str:
    """The same for ``import torch.nn as nn`` and ``from torch import nn``."""
    return ".".join(filter(None, found))
