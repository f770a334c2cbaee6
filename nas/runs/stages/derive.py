"""Deriving again from a finished or running search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.derive import DeriveStrategy
from nas.io.errors import UsageError
from nas.runs.build import restore_search
from nas.runs.class_paths import import_class
from nas.runs.config import load_experiment, load_retraining
from nas.runs.folder import RunFolder
from nas.runs.results import derive_and_score
from nas.runs.trainer import prepare_machine


def derive_run(
    path: Path, *, strategy: str | None = None, out: Path | None = None, trusted: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Derives from the last checkpoint of a search; its folder is only read.

    Args:
        path: The run folder.
        strategy: Class path of a derive strategy; None: the configuration's.
        out: The genotype file to write; None: none.
        trusted: The user's own modules.

    Raises:
        UsageError: The folder is not of a search, or there is no such strategy.
        ValueError: No checkpoint is whole.
    """
    folder = RunFolder.open(path, "search")
    source = folder.source(trusted)
    experiment, retraining = load_experiment(source), load_retraining(source)
    chosen = experiment.derive if strategy is None else _strategy(strategy, trusted)
    device = prepare_machine(experiment.trainer)
    module = restore_search(folder, experiment)
    derived = derive_and_score(experiment, retraining, module, chosen, folder, device)
    if out is not None:
        try:
            derived.genotype.save(out)
        except OSError as error:
            raise UsageError(f"{out}: cannot be written: {error.strerror}") from None
    return derived.summary


def _strategy(class_path: str, trusted: tuple[str, ...]) -> DeriveStrategy:
    found = import_class(class_path, trusted)
    if not issubclass(found, DeriveStrategy):
        raise UsageError(f"--strategy: {class_path} is not a nas.derive.DeriveStrategy")
    try:
        return found()
    except TypeError as error:
        raise UsageError(
            f"--strategy: {class_path} cannot be made without arguments ({error}); set model.derive"
        ) from None
