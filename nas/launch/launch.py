"""Starting and continuing a launch, and the summary of its searches."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nas.benchmark import Part, Table, open_table
from nas.genotype import key_of
from nas.io.errors import UsageError
from nas.io.files import atomic_folder, write_atomic
from nas.io.folder_lock import locked
from nas.io.json_file import Document, read_json, write_json
from nas.launch.budget import FILE as BUDGET
from nas.launch.budget import Budget, calibrate, read_epochs, with_epochs
from nas.launch.curves import read_curves
from nas.launch.latency import measure_latencies, read_latencies
from nas.launch.pages import PAGES, Refreshed, write_pages
from nas.launch.table import summarised
from nas.launch.trials import MAX_TRIALS, Engine, OnEvent, Plan, Trial, make_trials, rows, with_methods
from nas.runs.config import load_experiment
from nas.runs.folder import RunFolder
from nas.runs.options import ConfigSource
from nas.runs.stages.baseline import TABLE as RANDOM_TABLE
from nas.runs.stages.baseline import baseline

DOCUMENT = Document("a launch", "gumbel-nas/launch")
LAUNCH, SUMMARY, TRIALS, BASELINE = "launch.json", "summary.json", "trials.csv", "baseline"
KNOWN = "table.json"
"""The table in which the architectures are looked up."""


class Launch(NamedTuple):
    """A launch as its folder describes it.

    Attributes:
        plan: What all trials share.
        trials: The searches.
        num_baseline: Number of random architectures.
        trainings: Cost of each search in stand-alone trainings; None: as configured.
    """

    plan: Plan
    trials: list[Trial]
    num_baseline: int
    trainings: float | None


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
    methods: Mapping[str, Mapping[str, str]] | None = None,
    budget: Budget | None = None,
    table: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Searches with every method, combination of settings and seed; returns the folder and the content of its summary.json.

    `out` is ``runs/<config name>_launch`` by default. `budget` sets the number of epochs of all methods;
    architectures are looked up in `table`.

    Raises:
        UsageError: The folder exists, a setting does not load, or the table is of another space.
    """
    trials = make_trials(seeds, settings, methods)
    unit, amount = budget or ("", 0.0)
    budgeted = with_epochs(trials, {trial.method: int(amount) for trial in trials} if unit else {})
    trials = budgeted if unit == "epochs" else trials
    _check_settings(source, trials)
    folder = out if out is not None else Path("runs") / f"{source.name}_launch"
    experiment = load_experiment(source)
    known = None if table is None else open_table(table, experiment.model["space"], trusted=source.trusted)
    with atomic_folder(folder) as new:
        write_atomic(Plan(new).config, experiment.yaml)
        if known is not None:
            known.save(new / KNOWN)
        about = {"retrain": retrain, "num_baseline": num_baseline, "trials": [trial._asdict() for trial in trials]}
        DOCUMENT.save(new / LAUNCH, {**about, "trainings": amount if unit == "trainings" else None})
    return resume_launch(folder, engine, source.trusted, progress)


def resume_launch(
    folder: Path, engine: Engine, trusted: tuple[str, ...], progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Continues a launch; finished trials do not run again. A UsageError if another process runs the launch."""
    found = read_launch(folder, trusted)
    plan = found.plan
    with locked(folder):
        _check_settings(plan.source, found.trials)
        if found.trainings is not None and not (folder / BUDGET).is_file():
            with progress(plan, found.trials) as on_event:
                calibrate(plan, found.trials, found.trainings, engine, on_event)
            found = read_launch(folder, trusted)
            _check_settings(plan.source, found.trials)
        trials, num_baseline = found.trials, found.num_baseline

        def write(summary: Mapping[str, Any]) -> None:
            write_pages(folder / PAGES, summary, read_curves(plan, trials))

        with progress(plan, trials) as on_event:
            failed = engine.run(plan, trials, Refreshed(on_event, lambda: write(read_summary(plan, trials, {}, None))))
        if plan.retrain:
            measure_latencies(plan, trials)
        random = baseline(plan.source, num_baseline, folder / BASELINE)[1] if num_baseline else None
        summary = read_summary(plan, trials, failed, random)
        write_json(folder / SUMMARY, summary)
        write_atomic(folder / TRIALS, csv_text(summary["trials"]))
        write(summary)
    return folder, summary


def read_launch(folder: Path, trusted: tuple[str, ...]) -> Launch:
    """Reads launch.json, and the epochs of a calibrated budget. A UsageError names an invalid key or value."""
    path = folder / LAUNCH
    content = DOCUMENT.load(path, f"{folder}: not the folder of a launch ({LAUNCH} is missing)")
    for key, kind in (("trials", list), ("retrain", bool), ("num_baseline", int)):
        if type(content.get(key)) is not kind:
            raise UsageError(f"{path}: {key} must be a {kind.__name__}, got {content.get(key)!r:.80}")
    if len(content["trials"]) > MAX_TRIALS:
        raise UsageError(f"{path}: more than {MAX_TRIALS} trials")
    trials = with_methods([Trial.read(row, str(path)) for row in content["trials"]], str(path))
    if len({trial.name for trial in trials}) < len(trials):
        raise UsageError(f"{path}: two trials have the same name")
    trainings = content.get("trainings")
    if trainings is not None and not (type(trainings) in (int, float) and trainings > 0):
        raise UsageError(f"{path}: trainings must be a number above 0, got {trainings!r:.80}")
    trials = with_epochs(trials, read_epochs(folder, trials))
    return Launch(Plan(folder, trusted, content["retrain"]), trials, content["num_baseline"], trainings)


def _check_settings(source: ConfigSource, trials: Sequence[Trial]) -> None:
    """Loads the configuration with each combination of settings, so that errors are reported before the first search."""
    for trial in {json.dumps(trial.settings): trial for trial in trials}.values():
        try:
            load_experiment(source.extended(*trial.words()))
        except UsageError as error:
            raise UsageError(f"method {trial.method}: {error}" if trial.settings else str(error)) from None


def read_summary(
    plan: Plan, trials: Sequence[Trial], failed: Mapping[str, str], random: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The content of summary.json, from the files of the trials; see :func:`nas.launch.table.summarised`."""
    table = None if random is None else Table.load(plan.folder / BASELINE / RANDOM_TABLE)
    latencies, known = read_latencies(plan), plan.folder / KNOWN
    standing = standings(Table.load(known)) if known.is_file() else lambda choices: {}
    found = []
    for row in rows(plan, trials):
        latency = {"latency_ms": latencies[row["name"]]} if row["name"] in latencies else {}
        found.append(row | latency | (standing(row["genotype"]) if "genotype" in row else {}))
    finished = [run for run in map(plan.run, trials) if run.finished]
    metric = finished[0].read_summary()["metric"] if finished else {}
    name = {"metric": str(metric.get("name", "metric"))} if finished else {}
    higher = metric.get("higher_is_better") is not False  # missing in older runs
    notes = version_notes({run.path.name: _versions(run) for run in finished})
    return {**name, **summarised(found, failed, random, table, higher_is_better=higher), "notes": notes}


def _versions(run: RunFolder) -> dict[str, str]:
    found = read_json(run.manifest, "").get("versions")
    return found if isinstance(found, dict) else {}


def standings(table: Table) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """A function that gives ``rank``, the number of architectures ``of`` which it is, and ``regret``; empty outside of the table.

    The rank is by test scores, or by validation scores if the table has no test scores.
    """
    part: Part = "test" if table.column("test") else "validation"

    @cache
    def known(key: str) -> dict[str, float]:
        found = table.standing(json.loads(key), part)
        return {} if found is None else {"rank": found["rank"], "of": found["num"], "regret": found["regret"]}

    return lambda choices: known(key_of(choices))


def version_notes(versions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A sentence for each package of which trials had different versions. `versions` are trial -> package -> version."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, packages in versions.items():
        for package, version in packages.items():
            found.setdefault(package, {}).setdefault(str(version), []).append(name)
    return [
        f"the trials ran with different versions of {package}: "
        + "; ".join(f"{version} in {len(names)}, for example {names[0]}" for version, names in known.items())
        for package, known in found.items()
        if len(known) > 1
    ]


def failure_text(folder: Path, summary: Mapping[str, Any]) -> str:
    """The error message of a launch in which searches failed."""
    name, reason = next(iter(summary["failed"].items()))
    return (
        f"{len(summary['failed'])} of {len(summary['trials'])} searches failed, for example {name}: {reason}; "
        f"continue with: nas launch --resume {folder}"
    )


def csv_text(found: Sequence[Mapping[str, Any]]) -> str:
    """A CSV table with a column for each key; nested values are JSON."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in found for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()})
    return text.getvalue()
