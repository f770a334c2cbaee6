"""Derives again from a finished or running search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from nas.derive import DeriveStrategy
from nas.io.errors import UsageError
from nas.runs.build import restore_search
from nas.runs.class_paths import check_named, reading_files
from nas.runs.config import load_experiment
from nas.runs.folder import RunFolder
from nas.runs.own.stages import derive_own
from nas.runs.results import derive_and_score
from nas.runs.schema import read_targets
from nas.runs.spaces import save_genotype
from nas.runs.targets import limits_as_numbers, load_tables
from nas.runs.trainer import prepare_machine

Strategy = str | Mapping[str, Any] | DeriveStrategy
"""A derive strategy, its class path, or ``{"class_path", "init_args"}`` as in configurations."""


def derive_run(
    path: Path,
    *,
    strategy: Strategy | None = None,
    arguments: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
    out: Path | None = None,
    trusted: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Derives from the last checkpoint of a search, and writes the genotype to `out`. The run folder does not change.

    `strategy` is the strategy of the configuration by default. `arguments` are words ``--strategy.KEY VALUE`` that change its arguments.
    `limits`, name of a cost -> largest value, replace the limits of the configuration. A limit of at most 1 is a share of the cost of the
    largest network.

    Raises:
        UsageError: The folder is not the folder of a search, the strategy or an argument is wrong, or a cost is unknown.
        ValueError: No checkpoint is intact.
    """
    folder = RunFolder.open(path, "search")
    if folder.is_own_code:
        if limits:
            raise UsageError(f"{folder.shown}: a search in your own training code keeps the limits that it was given")
        spec = "nas.derive.Argmax" if strategy is None else strategy
        return derive_own(folder, _read_strategy(spec, arguments, trusted), out)
    source = folder.source(trusted)
    experiment = load_experiment(source)
    retraining = experiment.for_retrain()
    chosen = experiment.derive
    if strategy is not None or arguments:
        spec = experiment.values["model"]["derive"] if strategy is None else strategy
        chosen = _read_strategy(spec, arguments, trusted)
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


def _read_strategy(strategy: Strategy, arguments: Sequence[str], trusted: Sequence[str]) -> DeriveStrategy:
    if isinstance(strategy, DeriveStrategy):
        return strategy
    parser = ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.add_argument("--strategy", type=DeriveStrategy, required=True)
    with reading_files("derive", trusted):
        text = strategy if isinstance(strategy, str) else json.dumps(strategy)
        parsed = parser.parse_args([f"--strategy={text}", *arguments])
        check_named(parsed, trusted)
        result: DeriveStrategy = parser.instantiate(parsed).strategy
    return result
