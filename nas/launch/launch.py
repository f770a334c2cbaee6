"""Launching many searches, going on with them, and what they come to together."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from nas.io.errors import UsageError
from nas.io.files import atomic_folder, write_atomic
from nas.io.folder_lock import locked
from nas.io.json_file import Document, write_json
from nas.launch.hparams import write_hparams
from nas.launch.trials import FIGURES, MAX_TRIALS, OnEvent, Plan, Trial, make_trials, rows
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource
from nas.runs.stages.baseline import baseline

DOCUMENT = Document("a launch", "gumbel-nas/launch")
LAUNCH, SUMMARY, TABLE, HPARAMS = "launch.json", "summary.json", "trials.csv", "hparams"


class Engine(Protocol):
    """What runs trials."""

    def run(self, plan: Plan, trials: Sequence[Trial], on_event: OnEvent) -> dict[str, str]:
        """Runs all that are not finished; returns, by name, why some failed."""


Progress = Callable[[Plan, Sequence[Trial]], AbstractContextManager[OnEvent]]
"""Shows what becomes of trials while the context lasts."""


def launch(
    source: ConfigSource,
    seeds: Sequence[int],
    settings: Mapping[str, Sequence[str]],
    engine: Engine,
    out: Path | None,
    *,
    retrain: bool,
    num_baseline: int,
    progress: Progress,
) -> tuple[Path, dict[str, Any]]:
    """Searches with every combination of seeds and settings.

    Args:
        source: The configuration.
        seeds: Values of seed_everything.
        settings: Key -> values that lie over the configuration.
        engine: Runs them.
        out: The folder to make; None: ``runs/<config name>_launch``.
        retrain: Retrain and test what is found.
        num_baseline: Random architectures to train for comparison; 0: none.
        progress: Shows how it goes.

    Returns:
        The folder, and what its summary.json says.

    Raises:
        UsageError: The configuration or a setting does not work, or the folder exists.
    """
    trials = make_trials(seeds, settings)
    _check_settings(source, trials)
    folder = out if out is not None else Path("runs") / f"{source.name}_launch"
    with atomic_folder(folder) as new:
        write_atomic(new / "base.yaml", load_experiment(source).yaml())
        about = {"retrain": retrain, "num_baseline": num_baseline, "trials": [trial._asdict() for trial in trials]}
        DOCUMENT.save(new / LAUNCH, about)
    return resume_launch(folder, engine, source.trusted, progress)


def resume_launch(
    folder: Path, engine: Engine, trusted: tuple[str, ...], progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Goes on with a launch; finished trials are not run again.

    Raises:
        UsageError: Not the folder of a launch, or another process is at it.
    """
    plan, trials, num_baseline = read_launch(folder, trusted)
    with locked(folder):
        _check_settings(ConfigSource((plan.config,), (), trusted), trials)
        with progress(plan, trials) as on_event:
            failed = engine.run(plan, trials, on_event)
        compared = None
        if num_baseline:
            _, compared = baseline(ConfigSource((plan.config,), (), trusted), num_baseline, folder / "baseline")
        summary = summarised(rows(plan, trials), failed, compared)
        write_json(folder / SUMMARY, summary)
        write_atomic(folder / TABLE, _csv(summary["trials"]))
        write_hparams(folder / HPARAMS, summary["trials"])
    return folder, summary


def read_launch(folder: Path, trusted: tuple[str, ...]) -> tuple[Plan, list[Trial], int]:
    """What launch.json says: plan, trials, and the number of random architectures to compare with.

    Raises:
        UsageError: It is missing, or a key or value in it is not one of a launch.
    """
    path = folder / LAUNCH
    content = DOCUMENT.load(path, f"{folder}: not the folder of a launch ({LAUNCH} is missing)")
    for key, kind in (("trials", list), ("retrain", bool), ("num_baseline", int)):
        if type(content.get(key)) is not kind:
            raise UsageError(f"{path}: {key} must be a {kind.__name__}, got {content.get(key)!r:.80}")
    if len(content["trials"]) > MAX_TRIALS:
        raise UsageError(f"{path}: more than {MAX_TRIALS} trials")
    trials = [Trial.read(row, str(path)) for row in content["trials"]]
    if len({trial.name for trial in trials}) < len(trials):
        raise UsageError(f"{path}: two trials of one name")
    return Plan(folder, trusted, content["retrain"]), trials, content["num_baseline"]


def _check_settings(source: ConfigSource, trials: Sequence[Trial]) -> None:
    """Loads the configuration with the settings of every trial, so that what is wrong is said before a search begins.

    Raises:
        UsageError: They do not load.
    """
    for trial in {json.dumps(trial.settings): trial for trial in trials}.values():
        load_experiment(source._replace(overrides=(*source.overrides, *trial.words())))


def summarised(
    found: Sequence[Mapping[str, Any]], failed: Mapping[str, str], compared: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Mean, spread and best of every setting over its seeds.

    Args:
        found: A row for each trial, with what is known of it.
        failed: Why trials failed, by name.
        compared: The summary of random search; None: there was none.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault(json.dumps({key: row[key] for key in row if key not in FIGURES}), []).append(row)
    settings = []
    for text, members in groups.items():
        part = "test" if any("test" in row for row in members) else "arch"
        scored = [row for row in members if part in row]
        values = [row[part] for row in scored]
        entry: dict[str, Any] = {
            "settings": json.loads(text),
            "num": len(members),
            "num_finished": len(scored),
            "part": part,
        }
        if values:
            best = max(scored, key=lambda row: row["arch"])  # chosen as a search must choose: not by the test set
            std = statistics.stdev(values) if len(values) > 1 else None
            entry |= {
                "mean": statistics.fmean(values),
                "std": std,
                "best": {key: best[key] for key in FIGURES if key in best},
            }
            entry["search_seconds"] = statistics.fmean(row["search_seconds"] for row in scored)
        settings.append(entry)
    return {"trials": list(found), "settings": settings, "failed": dict(failed), "baseline": compared}


def failure_text(folder: Path, summary: Mapping[str, Any]) -> str:
    """The error of a launch in which searches failed."""
    name, reason = next(iter(summary["failed"].items()))
    return (
        f"{len(summary['failed'])} of {len(summary['trials'])} searches failed, for example {name}: {reason}; "
        f"continue with: nas launch --resume {folder}"
    )


def _csv(found: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in found for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()})
    return text.getvalue()
