"""The searches of a launch, and how one is run: by the very command that a person would type."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nas.io.errors import UsageError
from nas.io.files import open_own
from nas.io.folder_lock import wait_until_free
from nas.io.json_file import given_twice, read_json
from nas.io.parent import PARENT, python_command
from nas.runs.folder import RunFolder
from nas.runs.options import GROUPS, check_key

FIGURES = ("name", "seed", "arch", "test", "search_seconds", "genotype", "replaced", "stopped_after")
"""What a row may hold beside the settings."""
MAX_TRIALS = 10_000
NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,119}")
WAIT_SECONDS = 60.0
"""For a search whose launch was killed to save and stop."""


class Trial(NamedTuple):
    """One search.

    Attributes:
        name: What its folder is called.
        seed: Its seed_everything.
        settings: Key -> value, over the configuration.
    """

    name: str
    seed: int
    settings: dict[str, str]

    @classmethod
    def read(cls, row: Any, source: str) -> Trial:
        """The trial of a row of launch.json.

        Raises:
            UsageError: A key or value that no launch writes.
        """
        if not isinstance(row, dict) or set(row) != set(cls._fields) or not isinstance(row["settings"], dict):
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
        return trial

    def words(self) -> list[str]:
        """The settings as ``--KEY=VALUE`` words."""
        return [f"--{key}={value}" for key, value in {**self.settings, "seed_everything": self.seed}.items()]


class Plan(NamedTuple):
    """What every trial of a launch shares.

    Attributes:
        folder: The launch's.
        trusted: The user's own modules.
        retrain: Whether what is found is retrained and tested.
    """

    folder: Path
    trusted: tuple[str, ...]
    retrain: bool

    @property
    def config(self) -> Path:
        """The configuration that the trials' settings lie over."""
        return self.folder / "base.yaml"

    def run(self, trial: Trial) -> RunFolder:
        """The trial's run folder."""
        return RunFolder(self.folder / "trials" / trial.name)

    def stopped(self, trial: Trial) -> Path:
        """A file that says after how many epochs a scheduler stopped the trial for good."""
        return self.folder / "stopped" / f"{trial.name}.json"

    def unfinished(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials that have something left to do."""
        runs = [(trial, self.run(trial)) for trial in trials if not self.stopped(trial).exists()]
        return [trial for trial, run in runs if not (run.finished and (run.retrain.finished or not self.retrain))]


OnEvent = Callable[[Trial, str], None]
"""Hears of a trial: ``running``, ``finished``, or why it failed."""


Runner = Callable[[list[str], Path], int]
"""Runs a command, its output going to a file, and returns the exit code."""


def make_trials(seeds: Sequence[int], settings: Mapping[str, Sequence[str]]) -> list[Trial]:
    """Every combination of settings with every seed.

    Raises:
        UsageError: A seed or a setting is there twice, or there are too many.
    """
    combinations = [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
    if len(combinations) * len(seeds) > MAX_TRIALS:
        raise UsageError(f"{len(combinations) * len(seeds)} searches; at most {MAX_TRIALS} are launched")
    trials = [Trial(_name(i, chosen, seed), seed, chosen) for i, chosen in enumerate(combinations) for seed in seeds]
    names = [trial.name for trial in trials]
    if len(set(names)) < len(names):
        raise UsageError(f"--seeds, --set: {given_twice(names)} is there twice")
    return trials


def _name(number: int, settings: Mapping[str, str], seed: int) -> str:
    said = [
        re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{key.rpartition('.')[2]}-{v.rpartition('.')[2]}")
        for key, v in settings.items()
    ]
    return "_".join([*([f"{number:03}", *said] if said else []), f"seed{seed}"])[:120]


def run_trial(plan: Plan, trial: Trial, runner: Runner) -> None:
    """Searches, or goes on with a search that was begun, and retrains; what is finished is left as it is.

    Raises:
        RuntimeError: A command failed; the message is its last line.
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
            lines = log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{trial.name}: exit code {code}: {lines[-1] if lines else 'it said nothing'}")


def start(words: list[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a command that saves and stops should this process end before it.

    Args:
        words: The command.
        log: Gets what it says.
        **options: Further ones of Popen.
    """
    environment = {**os.environ, PARENT: str(os.getpid())}
    with open(log, "a", opener=open_own) as file:
        return subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, **options
        )


def judged_half(row: Mapping[str, float]) -> str:
    """The half whose loss tells of an epoch in metrics.csv: the weight half where alpha rested."""
    return "arch" if "arch/loss" in row else "weight"


def rows(plan: Plan, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """What came of the trials that are finished."""
    found = []
    for trial in trials:
        run = plan.run(trial)
        row: dict[str, Any] = {"name": trial.name, "seed": trial.seed, **trial.settings}
        if run.finished:
            summary = run.read_summary()
            row |= {"arch": summary["metric"]["value"], "search_seconds": summary["search_seconds"]}
            row["genotype"] = summary["genotype"]
            if summary.get("replaced") is not None:
                row["replaced"] = summary["replaced"]
        elif plan.stopped(trial).exists():
            row["stopped_after"] = read_json(plan.stopped(trial), f"{plan.stopped(trial)}: missing")["epochs"]
        if run.retrain.finished:
            row["test"] = run.retrain.read_summary()["metric"]["value"]
        found.append(row)
    return found
