"""The searches of a launch. Each runs as a command ``nas search``."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nas.genotype import check_choices
from nas.io.errors import UsageError
from nas.io.files import open_own
from nas.io.folder_lock import wait_until_free
from nas.io.json_file import given_twice, read_json
from nas.io.parent import PARENT, python_command
from nas.runs.folder import RunFolder
from nas.runs.options import GROUPS, ConfigSource, check_key

COSTS = ("params", "macs", "latency_ms")
FIGURES = (
    *("name", "method", "seed", "arch", "test", "search_seconds", "train_seconds"),
    *(*COSTS, "rank", "of", "regret", "genotype", "replaced", "stopped_after"),
)
"""Keys of a row that are not settings."""
MAX_TRIALS = 10_000
NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,119}")
MAX_METHOD = 120
_MODULES = re.compile(r"\b(?:[a-z_]\w*\.)+([A-Z]\w*)")
WAIT_SECONDS = 60.0
"""Time for a search to save and stop after its launch was killed."""


class Trial(NamedTuple):
    """One search.

    Attributes:
        name: Name of the run folder.
        seed: Value of seed_everything.
        settings: Key -> value that overrides the configuration.
        method: Name that its trials share in tables and pictures; empty in launches of older versions.
    """

    name: str
    seed: int
    settings: dict[str, str]
    method: str = ""

    @classmethod
    def read(cls, row: Any, source: str) -> Trial:
        """The trial of a row of launch.json; a UsageError for a key or value that no launch writes."""
        needed = set(cls._fields) - set(cls._field_defaults)
        if not isinstance(row, dict) or not needed <= set(row) <= set(cls._fields) or type(row["settings"]) is not dict:
            raise UsageError(f"{source}: a trial must have the keys {', '.join(cls._fields)}, got {row!r:.80}")
        trial = cls(**row)
        if not isinstance(trial.name, str) or not NAME.fullmatch(trial.name):
            raise UsageError(f"{source}: {trial.name!r:.80} is not the name of a trial: it must match {NAME.pattern}")
        if type(trial.seed) is not int:
            raise UsageError(f"{source}: {trial.name}: seed must be a whole number, got {trial.seed!r:.80}")
        for key, value in trial.settings.items():
            if key in GROUPS:
                raise UsageError(f"{source}: {trial.name}: {key} is set key by key")
            check_key(key, f"{source}: {trial.name}")
            if not isinstance(value, str):
                raise UsageError(f"{source}: {trial.name}: {key} must be a text, got {value!r:.80}")
        if not isinstance(trial.method, str) or len(trial.method) > MAX_METHOD:
            raise UsageError(f"{source}: {trial.name}: {trial.method!r:.80} is not the name of a method")
        return trial

    def words(self) -> list[str]:
        """The settings and the seed as ``--KEY=VALUE`` words."""
        return [f"--{key}={value}" for key, value in {**self.settings, "seed_everything": self.seed}.items()]


class Plan(NamedTuple):
    """The settings that all trials of a launch share.

    Attributes:
        folder: Folder of the launch.
        trusted: The user's own modules.
        retrain: Whether architectures are retrained and tested.
    """

    folder: Path
    trusted: tuple[str, ...] = ()
    retrain: bool = False

    @property
    def config(self) -> Path:
        """The configuration that settings override."""
        return self.folder / "base.yaml"

    @property
    def source(self) -> ConfigSource:
        """The source that loads this configuration."""
        return ConfigSource((self.config,), (), self.trusted)

    def run(self, trial: Trial) -> RunFolder:
        """The trial's run folder."""
        return RunFolder(self.folder / "trials" / trial.name)

    def stopped(self, trial: Trial) -> Path:
        """The file that exists if a scheduler stopped the trial for good; it holds the number of epochs."""
        return self.folder / "stopped" / f"{trial.name}.json"

    def unfinished(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials that still have to run."""
        runs = [(trial, self.run(trial)) for trial in trials if not self.stopped(trial).exists()]
        return [trial for trial, run in runs if not (run.finished and (run.retrain.finished or not self.retrain))]


OnEvent = Callable[[Trial, str], None]
"""Receives a trial and its state: ``running``, ``finished``, or the reason of a failure. Engines make one call at a time."""

Runner = Callable[[list[str], Path], int]
"""Runs a command with its output in a file, and returns the exit code."""


class Engine(Protocol):
    """Runs trials."""

    def run(self, plan: Plan, trials: Sequence[Trial], on_event: OnEvent) -> dict[str, str]:
        """Runs the unfinished trials; returns name -> reason of each failed trial."""


def make_trials(
    seeds: Sequence[int], settings: Mapping[str, Sequence[str]], methods: Mapping[str, Mapping[str, str]] | None = None
) -> list[Trial]:
    """Every method with every combination of settings and every seed.

    Args:
        seeds: Values of seed_everything.
        settings: Key -> values.
        methods: Name -> key -> value; None: the configuration alone.

    Raises:
        UsageError: A seed or a setting is repeated, a method changes a key of `settings`, or there are too many trials.
    """
    for name, changes in (methods or {}).items():
        if both := changes.keys() & settings.keys():
            raise UsageError(f"--set: method {name} changes {min(both)} too")
    combinations = [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
    groups = [(name, changes, chosen) for name, changes in (methods or {"": {}}).items() for chosen in combinations]
    if len(groups) * len(seeds) > MAX_TRIALS:
        raise UsageError(f"{len(groups) * len(seeds)} searches; at most {MAX_TRIALS} are launched")
    names = method_names([(name, chosen) for name, _, chosen in groups])
    trials = [
        Trial(_folder_name(method, i, chosen, seed), seed, {**changes, **chosen}, name)
        for i, (name, (method, changes, chosen)) in enumerate(zip(names, groups, strict=True))
        for seed in seeds
    ]
    folders = [trial.name for trial in trials]
    if len(set(folders)) < len(folders):
        raise UsageError(f"--seeds, --set: {given_twice(folders)} is given twice")
    return trials


def method_names(groups: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """A name in tables for each group of trials, no two alike: the method and the settings, as short as they can be."""
    names = [_method_name(method, settings, whole=False) for method, settings in groups]
    if len(set(names)) < len(names):  # equal classes of different modules
        names = [_method_name(method, settings, whole=True) for method, settings in groups]
    if len(set(names)) < len(names):  # the texts differ after their first characters
        names = [f"{number}: {name}"[:MAX_METHOD] for number, name in enumerate(names, 1)]
    return names


def with_methods(trials: Sequence[Trial], source: str) -> list[Trial]:
    """The trials, with names of methods where older versions wrote none; a UsageError if trials of one name have different settings."""
    unnamed = list({json.dumps(trial.settings): trial.settings for trial in trials if not trial.method}.values())
    names = method_names([("", settings) for settings in unnamed])
    trials = [
        trial if trial.method else trial._replace(method=names[unnamed.index(trial.settings)]) for trial in trials
    ]
    settings: dict[str, dict[str, str]] = {}
    for trial in trials:
        if settings.setdefault(trial.method, trial.settings) != trial.settings:
            raise UsageError(f"{source}: {trial.name}: two methods have the name {trial.method!r}")
    return trials


def _method_name(method: str, settings: Mapping[str, str], *, whole: bool) -> str:
    """The settings by the ends of their keys and classes; `whole`: by their full text."""
    ends = [key.rpartition(".")[2] for key in settings]
    keys = ends if len(set(ends)) == len(ends) and not whole else list(settings)
    values = settings.values() if whole else [_MODULES.sub(r"\1", value) for value in settings.values()]
    text = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    return ", ".join(filter(None, (method, text)))[:MAX_METHOD] or "as configured"


def _folder_name(method: str, number: int, settings: Mapping[str, str], seed: int) -> str:
    parts = [f"{key.rpartition('.')[2]}-{value.rpartition('.')[2]}" for key, value in settings.items()]
    parts = [re.sub(r"[^A-Za-z0-9.+-]+", "_", part) for part in parts]
    start = "_".join(filter(None, [method, *([f"{number:03}", *parts] if parts else [])]))
    end = f"seed{seed}"
    return f"{start[: 119 - len(end)]}_{end}" if start else end


def run_trial(plan: Plan, trial: Trial, runner: Runner) -> None:
    """Starts or continues a search and its retraining, unless they are finished.

    Raises:
        RuntimeError: A command failed; the message ends with the last line of its output.
    """
    run, trust = plan.run(trial), [word for name in plan.trusted for word in ("--trust-module", name)]
    log = plan.folder / "logs" / f"{trial.name}.txt"
    log.parent.mkdir(exist_ok=True)
    if run.config.exists():
        wait_until_free(run.path, WAIT_SECONDS)
        search = ["search", "--resume", str(run.path)]
    else:
        search = ["search", "--config", str(plan.config), *trial.words(), "--out", str(run.path)]
    commands = [] if run.finished else [search]
    if plan.retrain and not run.retrain.finished:
        commands.append(["retrain", "--run", str(run.path)])
    for command in commands:
        code = runner(python_command("nas.cli", "entry", *command, *trust), log)
        if code != 0:
            output = last_line(log.read_text(errors="replace"), "no output")
            raise RuntimeError(f"{trial.name}: exit code {code}: {output}")


def last_line(text: str, default: str) -> str:
    """The last line of a text; `default` if the text is empty."""
    return next(reversed(text.strip().splitlines()), default)


def start(words: list[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a command that saves and stops when this process ends; its output is appended to `log`."""
    environment = {**os.environ, PARENT: str(os.getpid())}
    with open(log, "a", opener=open_own) as file:
        return subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, **options
        )


def judged_half(row: Mapping[str, float]) -> str:
    """The level whose loss judges an epoch in metrics.csv: ``weight`` while alpha is frozen."""
    return "arch" if "arch/loss" in row else "weight"


def rows(plan: Plan, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row for each trial: method, seed, settings, and figures as far as the trial is finished.

    A metric that is not finite is missing. A UsageError names a damaged file.
    """
    found = []
    for trial in trials:
        row: dict[str, Any] = {"name": trial.name, "method": trial.method, "seed": trial.seed, **trial.settings}
        stopped = plan.stopped(trial)
        if plan.run(trial).finished:
            row |= _results(plan.run(trial))
        elif stopped.exists():
            row["stopped_after"] = read_json(stopped, f"{stopped}: missing").get("epochs", "?")
        found.append(row)
    return found


def _results(run: RunFolder) -> dict[str, Any]:
    """The figures of a finished search and of its retraining, and the architecture."""
    row: dict[str, Any] = {}
    for stage, part, seconds in ((run, "arch", "search_seconds"), (run.retrain, "test", "train_seconds")):
        if not stage.finished:
            continue
        summary = stage.read_summary()
        try:
            figures = {seconds: summary[seconds], **summary, **(summary.get("cost") or {})}
            figures[part] = summary["metric"]["value"]
        except (AttributeError, KeyError, TypeError) as error:
            raise UsageError(f"{stage.summary}: damaged: {error!r:.80}") from None
        for key in (part, seconds, *COSTS):
            value = figures.get(key)
            if type(value) in (int, float):
                row[key] = value
            elif value is not None or key == seconds:
                raise UsageError(f"{stage.summary}: damaged: {key} must be a number, got {value!r:.80}")
        if stage is run:
            row["genotype"] = check_choices(summary["genotype"], str(stage.summary))
            row |= {"replaced": summary["replaced"]} if summary.get("replaced") is not None else {}
    return row
