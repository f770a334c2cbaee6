"""Equal budgets: the number of epochs with which the search of each method costs the same."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nas.io.csv_file import read_columns
from nas.io.errors import UsageError
from nas.io.files import write_atomic
from nas.io.json_file import Document
from nas.launch.trials import Engine, OnEvent, Plan, Trial
from nas.runs.config import load_experiment

Budget = tuple[Literal["epochs", "trainings"], float]
"""The number of epochs of every search, or the cost of every search in stand-alone trainings."""
EPOCHS = "trainer.max_epochs"
FILE, CALIBRATION = "budget.json", "calibration"
DOCUMENT = Document("a budget", "gumbel-nas/budget")


def with_epochs(trials: Sequence[Trial], epochs: dict[str, int]) -> list[Trial]:
    """The trials with the number of epochs of their methods; methods that are not in `epochs` stay as they are.

    Raises:
        UsageError: A method sets the number of epochs itself.
    """
    for trial in trials:
        if trial.method in epochs and EPOCHS in trial.settings:
            raise UsageError(f"--budget: method {trial.method} sets {EPOCHS} itself")
    return [
        trial._replace(settings={**trial.settings, EPOCHS: str(epochs[trial.method])})
        if trial.method in epochs
        else trial
        for trial in trials
    ]


def read_epochs(folder: Path, trials: Sequence[Trial]) -> dict[str, int]:
    """The number of epochs of each method of a launch whose budget was calibrated; empty without calibration."""
    path = folder / FILE
    if not path.is_file():
        return {}
    found = DOCUMENT.load(path).get("epochs")
    methods = {trial.method for trial in trials}
    if (
        not isinstance(found, dict)
        or set(found) != methods
        or not all(type(n) is int and n > 0 for n in found.values())
    ):
        raise UsageError(f"{path}: epochs must have a whole number for each method of the launch")
    return found


def calibrate(
    plan: Plan, trials: Sequence[Trial], trainings: float, engine: Engine, on_event: OnEvent
) -> dict[str, int]:
    """Writes and returns the number of epochs with which a search of each method takes the time of `trainings` stand-alone trainings.

    The first seed of each method is searched and retrained once as configured, in a folder of its own. The times of warm-up and of the
    derive strategy are taken as fixed, and the rest as proportional to the number of epochs. A training takes the mean time of these
    retrainings.

    Raises:
        RuntimeError: A search failed, or warm-up and derive strategy alone exceed the budget.
    """
    firsts = list({trial.method: trial for trial in reversed(trials)}.values())[::-1]
    own = plan._replace(folder=plan.folder / CALIBRATION, retrain=True)
    if not own.config.exists():
        own.folder.mkdir(exist_ok=True)
        write_atomic(own.config, plan.config.read_text())
    if failed := engine.run(own, firsts, on_event):
        name, reason = next(iter(failed.items()))
        raise RuntimeError(f"calibration of {name} failed: {reason}; continue with: nas launch --resume {plan.folder}")
    second = statistics.fmean(own.run(trial).retrain.read_summary()["train_seconds"] for trial in firsts)
    derivations = [own.run(trial).read_summary()["derive_seconds"] for trial in firsts]
    epochs = {
        trial.method: _epochs(own, trial, derivation, trainings * second)
        for trial, derivation in zip(firsts, derivations, strict=True)
    }
    DOCUMENT.save(plan.folder / FILE, {"trainings": trainings, "epochs": epochs})
    return epochs


def _epochs(plan: Plan, trial: Trial, derivation: float, seconds: float) -> int:
    """Warm-up epochs, whose number is configured, and as many epochs after them as the rest of the time allows."""
    ends = [row["seconds"] for _, row in read_columns(plan.run(trial).system_csv)]
    frozen = load_experiment(plan.source.extended(*trial.words())).model["warmup_epochs"]
    frozen = frozen if frozen < len(ends) else 0  # alpha was frozen throughout: all epochs are alike
    warm_up = ends[frozen - 1] if frozen else 0.0
    if seconds <= warm_up + derivation:
        raise RuntimeError(
            f"--budget: method {trial.method} needs {warm_up:.1f} s of warm-up and {derivation:.1f} s to derive, "
            f"which is more than the budget of {seconds:.1f} s"
        )
    seconds_per_epoch = (ends[-1] - warm_up) / (len(ends) - frozen)
    return max(1, frozen + round((seconds - warm_up - derivation) / seconds_per_epoch))
