"""Names that a function uses from outside: imported where they can be, else written into the file too."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from nas.export.python.expressions import is_literal, literal, literal_text, text
from nas.export.python.source import Edit, Text, source_of

INCLUDED = ("nas", "search_spaces", "torchvision")
"""Packages whose code is written into the file instead of being imported from it."""

_PLAIN_MODULES = ("nas.supernet.candidates", "nas.export.plain")
"""Modules of the framework whose functions work without it."""


class Import(NamedTuple):
    """``from module import name`` or, without a name, ``import module``."""

    module: str
    name: str = ""

    @property
    def dotted(self) -> str:
        """What it binds: ``import torch.nn as nn`` and ``from torch import nn`` are the same."""
        return f"{self.module}.{self.name}" if self.name else self.module

    def line(self, bound: str) -> str:
        """The statement that binds it."""
        if not self.name:
            return f"import {self.module}" + ("" if bound == self.module.partition(".")[0] else f" as {bound}")
        return f"from {self.module} import {self.name}" + ("" if bound == self.name else f" as {bound}")


class Names:
    """The imports, constants, functions and classes of one file.

    Args:
        plain: Functions that stand in the place of others.
        reserved: Names that are taken already.

    Attributes:
        imports: Bound name -> import.
        definitions: Text of constants, functions and classes, each after what it uses.
        origins: Modules that the included code is from.
    """

    def __init__(self, plain: Mapping[Any, Any], reserved: tuple[str, ...]) -> None:
        self.imports: dict[str, Import] = {}
        self.definitions: list[str] = []
        self.origins: dict[str, None] = {}
        self._plain = {id(key): value for key, value in plain.items()}
        self._included: dict[Any, str] = {}
        self._kept: list[Any] = []  # their ids stay theirs
        self._taken = {*reserved, *dir(builtins)}

    def free(self, wanted: str) -> str:
        """A name that nothing in the file has yet."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}{number}"
        self._taken.add(name)
        return name

    def add_import(self, found: Import, wanted: str) -> str:
        """Imports something; the name under which it is known in the file."""
        for bound, other in self.imports.items():
            if other.dotted == found.dotted:
                return bound
        bound = wanted if wanted not in self._taken else self.free(wanted)
        self._taken.add(bound)
        self.imports[bound] = found
        return bound

    def rewritten(self, source: str, module: ModuleType) -> str:
        """Source whose names mean in this file what they meant in `module`.

        Args:
            source: A function or class.
            module: Where it was written.

        Raises:
            ValueError: It uses what can neither be imported nor included.
        """
        here = Text(source)
        local = _local_names(here.tree)
        annotations = {id(inner) for note in _annotations(here.tree) for inner in ast.walk(note)}
        edits: list[Edit] = []
        outside = {id(inner) for default in _defaults(here.tree) for inner in ast.walk(default)}
        skipped: set[int] = set()
        for node in ast.walk(here.tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Attribute) and isinstance(_root(node), ast.Name):
                chain: ast.expr = node
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                chain = node
            else:
                continue
            skipped |= {id(inner) for inner in ast.walk(chain)}
            root = _root(chain)
            if root.id in local and id(node) not in outside:
                continue
            if root.id not in vars(module) and hasattr(builtins, root.id):
                continue
            try:
                used, name = self._meaning(chain, module)
            except ValueError:
                if id(node) not in annotations:
                    raise
                used, name = chain, self.add_import(Import("typing", "Any"), "Any")
            if name.partition(".")[0] in local and id(node) not in outside:
                raise ValueError(f"a local name hides {ast.unparse(used)}; give the local one another name")
            span = (here.start(used), here.end(used))
            if (meant := ast.unparse(used)) != name:
                if here.part(*span) != meant:  # before Python 3.12 what stands inside an f-string has no place
                    raise ValueError(f"{meant} is used inside an f-string or over several lines; give it a local name")
                edits.append((*span, name))
        return here.edited(edits)

    def include(self, item: Any, name: str) -> str:
        """Writes a function, class or constant into the file; the name that it has there.

        Raises:
            ValueError: It is nothing of the kind, or its source cannot be found.
        """
        item = self._plain.get(id(item), item)
        key = (name, literal_text(item)) if is_literal(item) else id(item)
        if key in self._included:
            return self._included[key]
        self._kept.append(item)
        if is_literal(item):
            bound = self._included[key] = self.free(name)
            self.definitions.append(f"{bound} = {text(literal(item), before=len(bound) + 3)}\n")
            return bound
        function = inspect.unwrap(item) if callable(item) else item
        if not isinstance(function, (FunctionType, type)) or (inspect.isclass(item) and issubclass(item, nn.Module)):
            raise ValueError(f"{name} is {type(item).__name__} and cannot be written into a file")
        if isinstance(function, FunctionType) and (function.__closure__ or "<locals>" in function.__qualname__):
            raise ValueError(f"{function.__qualname__} is made inside another function; define it in its module")
        if function.__module__.startswith("nas.") and function.__module__ not in _PLAIN_MODULES:
            raise ValueError(f"it uses nas.{function.__name__}, which works inside a supernet only")
        bound = self._included[key] = self.free(function.__name__)
        source = source_of(function)
        written = self.rewritten(source, module_of(function))
        self.definitions.append(_renamed(written, bound))
        self.origins[function.__module__] = None
        return bound

    def standard(self, module: str, name: str) -> str:
        """Something of another package; its name in the file."""
        return self.add_import(Import(module, name), name)

    def torch_name(self, dotted: str) -> str:
        """A dotted name under ``torch``; what it needs is imported."""
        package, _, rest = dotted.partition(".")
        self.add_import(Import("torch", package) if package == "nn" else Import("torch"), package)
        return f"{package}.{rest}"

    def _meaning(self, chain: ast.expr, module: ModuleType) -> tuple[ast.expr, str]:
        """The part of a dotted name that is replaced, and by what."""
        nodes = list(_chain(chain))
        root = nodes[0]
        assert isinstance(root, ast.Name)
        found = _imported(module).get(root.id)
        item = vars(module).get(root.id, _MISSING)
        if found is not None and item is not _MISSING and _load(found) is not item:
            found = None  # bound anew after the import
        if found is not None and not is_included(found.module):
            return root, self.add_import(found, root.id)
        if item is _MISSING:
            if found is None:
                raise ValueError(f"{module.__name__} does not know the name {root.id}")
            item = _load(found)
        elif found is None and isinstance(item, _NAMED) and not is_included(item.__module__ or "builtins"):
            return root, self.add_import(Import(item.__module__, item.__name__), root.id)
        last: ast.expr = root
        for node in nodes[1:]:
            if not isinstance(item, ModuleType):
                break
            assert isinstance(node, ast.Attribute)
            inside, item, last = item, getattr(item, node.attr, _MISSING), node
            if item is _MISSING:
                raise ValueError(f"{inside.__name__} has no {node.attr}")
            reached = _imported(inside).get(node.attr)
            if reached is not None and not is_included(reached.module):
                return last, self.add_import(reached, node.attr)
        if isinstance(item, ModuleType):
            raise ValueError(f"module {item.__name__} is used as a value")
        return last, self.include(item, last.id if isinstance(last, ast.Name) else last.attr)  # type: ignore[attr-defined]


_MISSING = object()
_NAMED = (type, FunctionType, BuiltinFunctionType)


def is_included(module: str) -> bool:
    """Whether a module's code is written into the file: ours, and what no package installs."""
    package = module.partition(".")[0]
    if package in INCLUDED:
        return True
    if package in sys.stdlib_module_names and package != "__main__":
        return False
    origin = getattr(sys.modules.get(package), "__file__", None)
    if origin is None:
        return package == "__main__"
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    folders = Path(origin).parents
    return not any(Path(place) in folders for place in places) and not any(
        folder.name in ("site-packages", "dist-packages") for folder in folders
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
                if alias.asname:
                    result[alias.asname] = Import(alias.name)
                else:
                    package = alias.name.partition(".")[0]
                    result[package] = Import(package)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = getattr(module, "__package__", "") or ""
                source = importlib.util.resolve_name("." * node.level + source, package)
            for alias in node.names:
                result[alias.asname or alias.name] = Import(source, alias.name)
    return result


def _load(found: Import) -> Any:
    try:
        module = importlib.import_module(found.module)
        return getattr(module, found.name) if found.name else module
    except (ImportError, AttributeError):
        raise ValueError(f"{found.name or found.module} cannot be imported") from None


def _root(node: ast.expr) -> Any:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def _chain(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Attribute):
        yield from _chain(node.value)
    yield node


def _local_names(tree: ast.AST) -> set[str]:
    """Names that a function binds itself."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node not in getattr(tree, "body", ()):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def _defaults(tree: ast.AST) -> Iterator[ast.expr]:
    """Defaults of parameters, and decorators: what is looked up where a function is defined, not inside it."""
    for node in getattr(tree, "body", ()):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from node.args.defaults
            yield from (default for default in node.args.kw_defaults if default is not None)
            yield from node.decorator_list


def _annotations(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            note = getattr(node, field, None)
            if isinstance(note, ast.expr):
                yield note


def _renamed(source: str, name: str) -> str:
    """A function or class under another name, also where it calls itself."""
    here = Text(source)
    definition = here.tree.body[0]
    assert isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    if definition.name == name:
        return source
    text = here.part(here.start(definition), here.end(definition))
    match = re.search(rf"\b(?:def|class)\s+({re.escape(definition.name)})\b", text)
    assert match is not None
    offset = here.start(definition) + len(text[: match.start(1)].encode())
    return here.edited([(offset, offset + len(definition.name.encode()), name)])
