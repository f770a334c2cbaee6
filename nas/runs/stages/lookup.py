"""Looks up an architecture in a table of its space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.benchmark import PARTS, open_table
from nas.genotype import Genotype, choices_text
from nas.io.errors import UsageError, as_usage_error
from nas.io.reading import MAX_JSON_BYTES, read_text
from nas.runs.config import load_experiment
from nas.runs.folder import RunFolder
from nas.runs.options import ConfigSource
from nas.runs.spaces import load_space, read_genotype_of
from nas.supernet.search_space import SearchSpace


def lookup_run(
    path: Path, table: Path, *, dataset: str | None = None, out: Path | None = None, trusted: tuple[str, ...] = ()
) -> dict[str, Any]:
    """:func:`lookup` of the architecture of a run folder."""
    folder = RunFolder.open(path)
    genotype = folder.read_genotype()
    space = _space_of(genotype, folder.genotype, trusted)
    return lookup(genotype, space, table, dataset=dataset, out=out, trusted=trusted)


def lookup_genotype(
    path: Path, table: Path, source: ConfigSource, *, dataset: str | None = None, out: Path | None = None
) -> dict[str, Any]:
    """:func:`lookup` of a genotype file. `source` gives the space; if `source` has no files, the genotype gives it."""
    if source.files:
        experiment = load_experiment(source)
        genotype, space = read_genotype_of(path, experiment), experiment.model["space"]
    elif read_text(path, MAX_JSON_BYTES).lstrip().startswith("{"):
        genotype = Genotype.load(path)
        space = _space_of(genotype, path, source.trusted)
    else:
        raise UsageError(f"{path}: not a genotype.json; for the notation of a space, add --config FILE")
    return lookup(genotype, space, table, dataset=dataset, out=out, trusted=source.trusted)


def lookup(
    genotype: Genotype,
    space: SearchSpace,
    path: Path,
    *,
    dataset: str | None = None,
    out: Path | None = None,
    trusted: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Rank, score and distance to the best of an architecture in a table, for validation and test; see :func:`nas.benchmark.open_table`.

    The table is also written to `out`, in the format of own tables.

    Raises:
        UsageError: The table cannot be used or written, or does not have the architecture.
    """
    table = open_table(path, space, dataset=dataset, trusted=trusted)
    if out is not None:
        with as_usage_error():
            table.save(out)
    standing = {part: table.standing(genotype.choices, part) for part in PARTS}
    if not any(standing.values()):
        raise UsageError(f"{path}: does not have the architecture {choices_text(genotype.choices)}")
    return {"table": table.source, "metric": table.metric, "genotype": dict(genotype.choices), "standing": standing}


def _space_of(genotype: Genotype, path: Path, trusted: tuple[str, ...]) -> SearchSpace:
    if genotype.space is None:
        raise UsageError(f"{path}: this genotype names no space; add a configuration of its space: --config FILE")
    return load_space(genotype.space, trusted, f"{path}: space")
