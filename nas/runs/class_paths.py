"""The names that a file may use: classes of a fixed list, and the content of modules that the user trusts on the command line.

All readers of class paths use this module: configurations, run folders, exports, genotypes and launches.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from jsonargparse import ArgumentError, Namespace, set_parsing_settings

from nas.io.errors import UsageError, as_usage_error, describe

# otherwise, jsonargparse would instantiate class paths in fields of type Any
set_parsing_settings(instantiate_subclass_spec_in_any=False)


class Kind(NamedTuple):
    """Classes that files may name.

    Attributes:
        module: Their module; submodules count.
        base: Dotted path of their base class.
        excluded: Names of classes that call their arguments: a file could make them call any function.
    """

    module: str
    base: str
    excluded: frozenset[str] = frozenset()


KINDS = (
    Kind("nas.relaxations", "nas.relaxations.Relaxation"),
    Kind("nas.alpha", "nas.alpha.Alpha"),
    Kind("nas.tau", "nas.tau.TauSchedule"),
    Kind("nas.tasks", "nas.tasks.Task"),
    Kind("nas.data", "nas.data.SearchDataModule"),
    Kind("nas.derive", "nas.derive.DeriveStrategy"),
    Kind("nas.bilevel", "nas.bilevel.Bilevel"),
    Kind("nas.paths", "nas.paths.Paths"),
    Kind("nas.regularizers", "nas.regularizers.Regularizer"),
    Kind("nas.supernet.network_space", "nas.supernet.search_space.SearchSpace"),
    Kind("search_spaces", "nas.supernet.search_space.SearchSpace"),
    Kind("torch.optim", "torch.optim.Optimizer"),
    Kind(
        "torch.optim.lr_scheduler",
        "torch.optim.lr_scheduler.LRScheduler",
        frozenset("ChainedScheduler CyclicLR LambdaLR MultiplicativeLR SequentialLR".split()),
    ),
    Kind("torch.nn", "torch.nn.modules.loss._Loss", frozenset({"TripletMarginWithDistanceLoss"})),
    Kind("torchmetrics.classification", "torchmetrics.Metric"),
    Kind("torchmetrics.regression", "torchmetrics.Metric"),
    Kind("torchmetrics.segmentation", "torchmetrics.Metric"),
    Kind(
        "torchvision.transforms",
        "torch.nn.Module",
        frozenset(
            "Compose Lambda RandomApply RandomChoice RandomOrder SanitizeBoundingBoxes SanitizeKeyPoints".split()
        ),
    ),
    Kind(
        "pytorch_lightning.callbacks",
        "pytorch_lightning.Callback",
        frozenset("BackboneFinetuning LambdaCallback ModelPruning StochasticWeightAveraging ThroughputMonitor".split()),
    ),
    Kind("pytorch_lightning.loggers", "pytorch_lightning.loggers.TensorBoardLogger"),
    Kind("pytorch_lightning.loggers", "pytorch_lightning.loggers.CSVLogger"),
)


def import_named(path: str, trusted: Sequence[str] = ()) -> Any:
    """The object of a dotted path in a listed or trusted module; raises UsageError for other modules and unknown names."""
    module, _, name = path.rpartition(".")
    if not module:
        raise UsageError(f"{path}: not a class; give its dotted path, for example nas.tau.Exponential")
    if not _is_below(module, [*_modules(), *trusted]):
        raise UsageError(refusal(path))
    with allowed_imports(trusted):
        try:
            return getattr(import_module(module), name)
        except Exception as error:  # a module of the user may raise anything
            raise UsageError(f"{path}: {describe(error)}") from error


def import_class(path: str, trusted: Sequence[str] = ()) -> type:
    """The class of a dotted path; raises UsageError if a file may not name this class."""
    found = import_named(path, trusted)
    if not isinstance(found, type):
        raise UsageError(f"{path}: not a class")
    if not may_be_named(found, trusted):
        raise UsageError(refusal(path))
    return found


def import_function(path: str, trusted: Sequence[str] = ()) -> Any:
    """The function of a dotted path; raises UsageError if a trusted module does not define it."""
    if not _is_below(path.rpartition(".")[0], trusted):
        raise UsageError(refusal(path))
    found = import_named(path, trusted)
    if not callable(found) or isinstance(found, type):
        raise UsageError(f"{path}: not a function")
    if not may_be_named(found, trusted):
        raise UsageError(refusal(path))
    return found


def may_be_named(found: Any, trusted: Sequence[str] = ()) -> bool:
    """Whether a file may name a class or function: a class of a listed kind, or anything that a trusted module defines."""
    module = str(getattr(found, "__module__", ""))
    if _is_below(module, trusted):
        return True
    if not isinstance(found, type):
        return False
    kinds = [kind for kind in KINDS if _is_below(module, [kind.module]) and issubclass(found, _object(kind.base))]
    return bool(kinds) and all(found.__name__ not in kind.excluded for kind in kinds)


def check_named(parsed: Namespace, trusted: Sequence[str] = ()) -> None:
    """Raises UsageError if a parsed configuration names a function or a forbidden class. Called before objects are made."""
    for key, found, path in _named(parsed, "", [*_modules(), *trusted]):
        if not may_be_named(found, trusted):
            raise UsageError(f'"{key}": {refusal(path)}')


def _named(value: Any, key: str, roots: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    """(key, class or function, dotted path) of every name inside a value; the object is None for modules outside `roots`."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        path, found = value.get("class_path"), None
        if isinstance(path, str):
            found = _object(path) if _is_below(path, roots) else None
            yield key, found, path
        for name, item in value.items():
            if name == "init_args" and isinstance(item, Namespace):
                defaults = _defaults(found)
                item = {k: v for k, v in vars(item).items() if not (callable(v) and v is defaults.get(k))}
            yield from _named(item, f"{key}.{name}" if key else str(name), roots)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for i, item in enumerate(value):
            yield from _named(item, f"{key}[{i}]", roots)
    elif isinstance(value, type) or inspect.isroutine(value):
        yield key, value, f"{value.__module__}.{value.__qualname__}"


def _defaults(found: Any) -> dict[str, Any]:
    """Default arguments of a class and its bases. They come from code, not from a file."""
    result: dict[str, Any] = {}
    for base in reversed(found.__mro__ if isinstance(found, type) else ()):
        try:
            parameters = inspect.signature(vars(base)["__init__"]).parameters
        except (KeyError, TypeError, ValueError):
            continue
        result |= {name: parameter.default for name, parameter in parameters.items()}
    return result


def _object(path: str) -> Any:
    """The object of a dotted path, possibly an attribute of a class; None if there is no such object."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except ModuleNotFoundError:
        return getattr(_object(module), name, None) if module else None


def refusal(path: str) -> str:
    """The error message for a path that a file may not name."""
    module = path.partition(".")[0]
    if module in {kind.module.partition(".")[0] for kind in KINDS}:
        return (
            f"{path!r} is not a class that a configuration may name; to use a class of your own, put it into your own module and "
            "add --trust-module MODULE"
        )
    return f"{path!r} is not in a trusted module; if the module is yours, add --trust-module {module}"


@contextmanager
def allowed_imports(trusted: Sequence[str] = ()) -> Iterator[None]:
    """Lets jsonargparse import only listed and trusted modules.

    The working directory comes last in the import path, after installed packages.
    """
    here = os.getcwd()
    if trusted and here not in sys.path:
        sys.path.append(here)
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*_modules(), *trusted])
    try:
        yield
    finally:
        others = [name for name in trusted if name not in _modules()]
        set_parsing_settings(import_path_denylist=["*", *others])


@contextmanager
def reading_files(where: str, trusted: Sequence[str]) -> Iterator[None]:
    """Lets files name listed and trusted classes. Every error in the block becomes a UsageError that begins with `where`."""
    with as_usage_error(where), allowed_imports(trusted):
        try:
            yield
        except ArgumentError as error:
            raise UsageError(_short(error)) from None


def _short(error: ArgumentError) -> str:
    text = " ".join(str(error).split()).removeprefix("Parser key ")
    denied = re.search(r"Importing '([^']*)' is not allowed", text)
    if not denied:
        return text
    where = re.sub(r"Problem with given class_path '[^']*': $", "", text[: denied.start()])
    return f"{where}{refusal(denied[1])}"


def _modules() -> list[str]:
    return list(dict.fromkeys(kind.module for kind in KINDS))


def _is_below(module: str, roots: Sequence[str]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)
