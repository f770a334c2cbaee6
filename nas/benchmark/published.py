"""Published tables of search spaces, read as :class:`nas.benchmark.Table`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nas.benchmark.table import Part, Table
from nas.genotype import Genotype
from nas.io.errors import UsageError, as_usage_error
from nas.io.json_file import read_json
from nas.io.reading import size_of

DATASETS = ("cifar10-valid", "cifar10", "cifar100", "ImageNet16-120")
"""Datasets of NAS-Bench-201 and NATS-Bench. Networks of cifar10-valid are trained on half of the training set of CIFAR-10."""
EPOCHS = "200"
"""Length of the trainings that are read; the files have shorter trainings too."""
META = "meta.pickle.pbz2"
METRIC = "accuracy (%)"
_NAMES: Mapping[Part, str] = {"validation": "valid-accuracy", "test": "test-accuracy"}

Scores = Mapping[str, Mapping[Part, float]]
"""Architecture in the notation of its space -> part -> mean score over its trainings."""


class Notation(Protocol):
    """A search space; only its published notation is used."""

    def parse_genotype(self, text: str) -> Genotype:
        """The architecture of a text; raises ValueError if the space does not have it."""


class _Package(NamedTuple):
    """The Python package that reads the files of a benchmark.

    Attributes:
        title: Name of the benchmark.
        module: Module to import.
        distribution: Name for pip.
    """

    title: str
    module: str
    distribution: str


NATS_BENCH = _Package("NATS-Bench", "nats_bench", "nats_bench")
NAS_BENCH_201 = _Package("NAS-Bench-201", "nas_201_api", "nas-bench-201")


def open_table(path: Path, space: Notation, *, dataset: str | None = None, trusted: Sequence[str] = ()) -> Table:
    """Reads a table of a search space.

    Args:
        path: A file of :class:`nas.benchmark.Table`, the JSON file of NAS-Bench-Macro, the file of NAS-Bench-201, or the file or folder of
            the topology space of NATS-Bench.
        space: The search space. It converts the architectures of a published table to choices.
        dataset: One of `DATASETS` for NAS-Bench-201 and NATS-Bench; None for other tables.
        trusted: Modules that may run code. The files of NAS-Bench-201 and NATS-Bench are pickles, so they need ``"nas_201_api"`` and
            ``"nats_bench"``.

    Returns:
        The table. Seed 0 of a published table stands for the mean over the trainings.

    Raises:
        UsageError: The file cannot be read, is damaged, not trusted, or of another space; or the package of its benchmark is missing.

    Source: Dong and Yang 2020, "NAS-Bench-201"; Dong et al. 2021, "NATS-Bench"; Su et al. 2021, "Prioritized Architecture Sampling with
    Monto-Carlo Tree Search" (NAS-Bench-Macro).
    """
    package = _package_of(path)
    if package is not None:
        scores = _read_pickles(path, package, dataset, trusted, space)
        return _published(f"{package.title}, {dataset}, {EPOCHS} epochs", scores, space)
    if dataset is not None:
        raise UsageError(f"{path}: a dataset is for {NAS_BENCH_201.title} and {NATS_BENCH.title} only, got {dataset}")
    content = read_json(path, f"{path}: no such table")
    if "format" not in content:
        _check_space(path, content, space)
        return _published("NAS-Bench-Macro", _read_macro(path, content), space)
    table = Table.load(path)
    if table.class_path not in (None, _class_path(space)):
        raise UsageError(f"{path}: a table of another space: {table.class_path}, not {_class_path(space)}")
    return table


def _package_of(path: Path) -> _Package | None:
    """The package that reads a file; None for JSON files."""
    if path.is_dir():
        if not (path / META).is_file():
            raise UsageError(f"{path}: not a folder of {NATS_BENCH.title} ({META} is missing)")
        return NATS_BENCH
    try:
        size_of(path)
        with path.open("rb") as file:
            start = file.read(3)
    except OSError as error:
        reason = "no such table" if isinstance(error, FileNotFoundError) else error.strerror
        raise UsageError(f"{path}: {reason}") from None
    if start == b"BZh":  # bzip2
        return NATS_BENCH
    return NAS_BENCH_201 if start.startswith((b"PK", b"\x80")) else None  # archives and pickles of torch.save


def _read_macro(path: Path, content: Mapping[str, Any]) -> Scores:
    scores: dict[str, Mapping[Part, float]] = {}
    for text, row in content.items():
        value = row.get("mean_acc") if isinstance(row, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"{path}: not a table: {text!r:.80} has no number 'mean_acc'")
        scores[text] = {"test": float(value)}
    return scores


def _read_pickles(
    path: Path, package: _Package, dataset: str | None, trusted: Sequence[str], space: Notation
) -> Scores:
    if dataset not in DATASETS:
        raise UsageError(f"{path}: {package.title} needs a dataset: one of {', '.join(DATASETS)}; got {dataset}")
    if package.module not in trusted:
        raise UsageError(
            f"{path}: a pickle of {package.title}, which may run code when it is read; if you trust it, add "
            f"--trust-module {package.module}"
        )
    try:
        module = import_module(package.module)
    except ModuleNotFoundError as error:
        raise UsageError(f"{path}: {error}; {package.title} needs: pip install {package.distribution}") from None
    with as_usage_error(f"{path}: {package.title}"):
        if package is NATS_BENCH:
            api = module.create(str(path), "topology", fast_mode=path.is_dir(), verbose=False)
        else:
            api = module.NASBench201API(str(path), verbose=False)
    _check_space(path, api.meta_archs, space)
    scores: dict[str, Mapping[Part, float]] = {}
    with as_usage_error(f"{path}: {package.title}"):
        for index in _indexes(api, path):
            info = api.get_more_info(index, dataset, hp=EPOCHS, is_random=False)
            scores[api.meta_archs[index]] = {part: float(info[name]) for part, name in _NAMES.items() if name in info}
    return scores


def _indexes(api: Any, path: Path) -> Sequence[int]:
    """The architectures with results. A folder has a file for each, which the package reads when it is asked."""
    if not path.is_dir():
        return sorted(api.evaluated_indexes)
    return [index for index in range(len(api)) if (path / f"{index:06d}.pickle.pbz2").is_file()]


def _check_space(path: Path, texts: Iterable[str], space: Notation) -> None:
    """Raises UsageError if none of a table's architectures is of the space."""
    reason = "no architectures"
    for text in texts:
        try:
            space.parse_genotype(text)
            return
        except ValueError as error:
            reason = f"a table of another space: {error}"
    raise UsageError(f"{path}: {reason}")


def _published(source: str, scores: Scores, space: Notation) -> Table:
    table = Table({"space": {"class_path": _class_path(space)}}, METRIC, provenance={"source": source})
    for text, values in scores.items():
        for part, value in values.items():
            table.add(_choices(text, space), part, 0, value)
    return table


def _choices(text: str, space: Notation) -> Mapping[str, Any]:
    """The choices of an architecture. One outside of the space, for example of other operations, keeps its place in the ranking."""
    try:
        return space.parse_genotype(text).choices
    except ValueError:
        return {"notation": text}


def _class_path(space: Notation) -> str:
    return f"{type(space).__module__}.{type(space).__qualname__}"
