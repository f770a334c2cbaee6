"""Derives again from a finished or running search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.derive import DeriveStrategy
from nas.io.errors import UsageError
from nas.runs.build import restore_search
from nas.runs.class_paths import import_class
from nas.runs.config import load_experiment
from nas.runs.folder import RunFolder
from nas.runs.own.stages import derive_own
from nas.runs.results import derive_and_score
from nas.runs.schema import read_targets
from nas.runs.spaces import save_genotype
from nas.runs.targets import limits_as_numbers, load_tables
from nas.runs.trainer import prepare_machine


def derive_run(
    path: Path,
    *,
    strategy: str | None = None,
    limits: Mapping[str, float] | None = None,
    out: Path | None = None,
    trusted: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Derives from the last checkpoint of a search, and writes the genotype to `out`. The run folder does not change.

    `strategy` is the class path of a derive strategy; None: the strategy of the configuration. `limits`, name of a cost -> largest value,
    replace the limits of the configuration. A limit of at most 1 is a share of the cost of the largest network.

    Raises:
        UsageError: The folder is not the folder of a search, the strategy does not exist, or a cost is unknown.
        ValueError: No checkpoint is intact.
    """
    folder = RunFolder.open(path, "search")
    if folder.is_own_code:
        if limits:
            raise UsageError(f"{folder.shown}: a search in your own training code keeps the limits that it was given")
        return derive_own(folder, strategy, out)
    source = folder.source(trusted)
    experiment = load_experiment(source)
    retraining = experiment.for_retrain()
    chosen = experiment.derive if strategy is None else _strategy(strategy, trusted)
    device = prepare_machine(experiment.trainer)
    tables = load_tables(experiment.targets, folder.path)
    if limits:
        numbers, tables = limits_as_numbers(limits, retraining, device, tables)
        targets = read_targets(numbers, trusted)
        experiment, retraining = replace(experiment, targets=targets), replace(retraining, targets=targets)
    module = restore_search(folder, experiment)
    derived = derive_and_score(experiment, retraining, module, chosen, folder, tables, device)
    save_genotype(derived.genotype, out)
    return derived.summary


def _strategy(class_path: str, trusted: tuple[str, ...]) -> DeriveStrategy:
    found = import_class(class_path, trusted)
    if not issubclass(found, DeriveStrategy):
        raise UsageError(f"--strategy: {class_path} is not a nas.derive.DeriveStrategy")
    try:
        return found()
    except TypeError as error:
        raise UsageError(
            f"--strategy: {class_path} needs arguments ({error}); set model.derive in the configuration"
        ) from None
