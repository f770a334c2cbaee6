"""Starting and continuing a launch, and the summary of its searches."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nas.io.errors import UsageError
from nas.io.files import atomic_folder, write_atomic
from nas.io.folder_lock import locked
from nas.io.json_file import Document, write_json
from nas.launch.trials import FIGURES, MAX_TRIALS, Engine, OnEvent, Plan, Trial, make_trials, rows
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource
from nas.runs.pages import write_hparams
from nas.runs.stages.baseline import baseline

DOCUMENT = Document("a launch", "gumbel-nas/launch")
LAUNCH, SUMMARY, TABLE, HPARAMS = "launch.json", "summary.json", "trials.csv", "hparams"

Progress = Callable[[Plan, Sequence[Trial]], AbstractContextManager[OnEvent]]
"""Shows the states of trials while the context lasts."""


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
    """Searches with every combination of seeds and settings; returns the folder and the content of its summary.json.

    `out` is ``runs/<config name>_launch`` by default. A UsageError if the folder exists, or a setting does not load.
    """
    trials = make_trials(seeds, settings)
    _check_settings(source, trials)
    folder = out if out is not None else Path("runs") / f"{source.name}_launch"
    with atomic_folder(folder) as new:
        write_atomic(Plan(new).config, load_experiment(source).yaml())
        about = {"retrain": retrain, "num_baseline": num_baseline, "trials": [trial._asdict() for trial in trials]}
        DOCUMENT.save(new / LAUNCH, about)
    return resume_launch(folder, engine, source.trusted, progress)


def resume_launch(
    folder: Path, engine: Engine, trusted: tuple[str, ...], progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Continues a launch; finished trials do not run again. A UsageError if another process runs the launch."""
    plan, trials, num_baseline = read_launch(folder, trusted)
    with locked(folder):
        _check_settings(plan.source, trials)
        with progress(plan, trials) as on_event:
            failed = engine.run(plan, trials, on_event)
        compared = baseline(plan.source, num_baseline, folder / "baseline")[1] if num_baseline else None
        summary = summarised(rows(plan, trials), failed, compared)
        write_json(folder / SUMMARY, summary)
        write_atomic(folder / TABLE, _csv(summary["trials"]))
        _write_hparams(folder / HPARAMS, summary["trials"])
    return folder, summary


def read_launch(folder: Path, trusted: tuple[str, ...]) -> tuple[Plan, list[Trial], int]:
    """Reads launch.json: plan, trials, and the number of random architectures. A UsageError names an invalid key or value."""
    path = folder / LAUNCH
    content = DOCUMENT.load(path, f"{folder}: not the folder of a launch ({LAUNCH} is missing)")
    for key, kind in (("trials", list), ("retrain", bool), ("num_baseline", int)):
        if type(content.get(key)) is not kind:
            raise UsageError(f"{path}: {key} must be a {kind.__name__}, got {content.get(key)!r:.80}")
    if len(content["trials"]) > MAX_TRIALS:
        raise UsageError(f"{path}: more than {MAX_TRIALS} trials")
    trials = [Trial.read(row, str(path)) for row in content["trials"]]
    if len({trial.name for trial in trials}) < len(trials):
        raise UsageError(f"{path}: two trials have the same name")
    return Plan(folder, trusted, content["retrain"]), trials, content["num_baseline"]


def _check_settings(source: ConfigSource, trials: Sequence[Trial]) -> None:
    """Loads the configuration with each combination of settings, so that errors are reported before the first search."""
    for trial in {json.dumps(trial.settings): trial for trial in trials}.values():
        load_experiment(source.extended(*trial.words()))


def summarised(
    found: Sequence[Mapping[str, Any]], failed: Mapping[str, str], compared: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Mean, standard deviation and best trial of each combination of settings; `compared` is the summary of random search."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault(json.dumps(_settings_of(row)), []).append(row)
    settings = [{"settings": json.loads(text), **_summary_of(members)} for text, members in groups.items()]
    return {"trials": list(found), "settings": settings, "failed": dict(failed), "baseline": compared}


def _summary_of(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    part = "test" if any("test" in row for row in members) else "arch"
    scored = [row for row in members if part in row]
    counts = {"num": len(members), "num_finished": len(scored), "part": part}
    if not scored:
        return counts
    values = [row[part] for row in scored]
    best = max(scored, key=lambda row: row["arch"])  # never by the test set
    return {
        **counts,
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "best": {key: best[key] for key in FIGURES if key in best},
        "search_seconds": statistics.fmean(row["search_seconds"] for row in scored),
    }


def _settings_of(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in FIGURES}


def failure_text(folder: Path, summary: Mapping[str, Any]) -> str:
    """The error message of a launch in which searches failed."""
    name, reason = next(iter(summary["failed"].items()))
    return (
        f"{len(summary['failed'])} of {len(summary['trials'])} searches failed, for example {name}: {reason}; "
        f"continue with: nas launch --resume {folder}"
    )


def _csv(found: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    columns = dict.fromkeys(key for row in found for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()})
    return text.getvalue()


def _write_hparams(folder: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Writes TensorBoard's HParams page: an event file for each trial that has a figure. Old files are removed."""
    shutil.rmtree(folder, ignore_errors=True)
    for row in found:
        figures = {f"launch/{key}": float(row[key]) for key in ("arch", "test", "search_seconds") if key in row}
        if figures:
            with SummaryWriter(str(folder / row["name"])) as writer:
                write_hparams(writer, {"seed": row["seed"], **_settings_of(row)}, figures, 0)
