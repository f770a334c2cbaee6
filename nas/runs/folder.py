"""A run folder: the path of each file, and the order in which files are written."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.genotype import Genotype
from nas.io.checkpoint_io import LAST, PREVIOUS
from nas.io.errors import UsageError
from nas.io.files import atomic_folder, remove_temporary_files, sha256
from nas.io.folder_lock import LOCK, locked
from nas.io.json_file import Document, read_json, write_json
from nas.io.versions import git_commit, versions
from nas.runs.options import OWN_CODE, ConfigSource

STAGES = ("search", "retrain")
SCORES = Document("the scores of a derive strategy", "gumbel-nas/scores")
SUMMARY_KEYS = {"stage", "genotype", "metric"}


class RunFolder:
    """Paths and files of one run. config.yaml is written first, manifest.json last."""

    def __init__(self, path: str | Path) -> None:
        """Makes no folder, and accepts a path that does not exist."""
        self.path = Path(path).absolute()
        self.config = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / LAST
        self.metrics_csv = self.path / "metrics.csv"
        self.system_csv = self.path / "system.csv"
        self.genotype = self.path / "genotype.json"
        self.scores = self.path / "scores.json"
        self.derived = self.path / "derived.safetensors"
        self.summary = self.path / "summary.json"
        self.manifest = self.path / "manifest.json"

    @classmethod
    def create(cls, path: Path | None, name: str, fill: Callable[[RunFolder], None]) -> RunFolder:
        """Makes a new folder with its first files, completely or not at all.

        Args:
            path: The folder; None: ``runs/<name>/<n>`` with the first free number.
            name: Name of the configuration.
            fill: Writes the first files, including config.yaml, into the given folder.

        Raises:
            UsageError: The folder exists already or cannot be made.
        """
        number = 0
        while True:
            folder = cls(path if path is not None else Path("runs") / name / str(number))
            try:
                with atomic_folder(Path(folder.shown)) as new:
                    fill(cls(new))
            except UsageError as error:
                if not os.path.lexists(folder.path):
                    raise UsageError(f"run folder {error}") from None
                if path is not None:
                    raise UsageError(f"run folder {folder.shown} exists already; name another with --out") from None
                number += 1
            else:
                return folder

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Locks the folder for writing; raises UsageError if another process has the lock or the folder is not writable."""
        with locked(Path(self.shown)):
            for folder in (self.path, self.checkpoints):
                remove_temporary_files(folder)
            yield

    @classmethod
    def open(cls, path: str | Path, stage: str | None = None) -> RunFolder:
        """An existing run folder; raises UsageError if it is missing, or if its stage is not `stage` (None: any stage)."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise UsageError(f"{path}: no such run folder")
        if not folder.config.is_file():
            raise UsageError(f"{path}: not a run folder (config.yaml is missing)")
        if stage is not None and folder.stage != stage:
            raise UsageError(f"{path}: this is the folder of a {folder.stage}, not of a {stage}")
        return folder

    @property
    def shown(self) -> str:
        """The path for messages: relative if it is below the working directory."""
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    @property
    def quoted(self) -> str:
        """The path for messages, quoted for a shell."""
        return shlex.quote(self.shown)

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self.manifest.is_file()

    @property
    def stage(self) -> str:
        """``"search"`` or ``"retrain"``. A retraining starts with a genotype file; a search writes one after the summary."""
        if self.summary.is_file() or self.finished:
            return str(self.read_summary()["stage"])
        return "retrain" if self.genotype.is_file() else "search"

    @property
    def is_own_code(self) -> bool:
        """Whether this is the finished run of a search in training code of the user."""
        return self.summary.is_file() and self.read_summary().get(OWN_CODE) is True

    @property
    def retrain(self) -> RunFolder:
        """The folder of the retraining."""
        return RunFolder(self.path / "retrain")

    @property
    def search(self) -> RunFolder | None:
        """The folder of the search to which this retraining belongs: the folder above; None if there is none."""
        above = RunFolder(self.path.parent)
        return above if above.retrain.path == self.path and above.finished and above.stage == "search" else None

    def source(self, trusted: tuple[str, ...]) -> ConfigSource:
        """The run's resolved configuration. No file stores `trusted`, so the user gives it again with each command."""
        return ConfigSource((self.config,), (), trusted)

    def has_checkpoint(self) -> bool:
        """Whether the run can be resumed from a checkpoint."""
        return self.last_checkpoint.exists() or (self.checkpoints / PREVIOUS).exists()

    def read_genotype(self) -> Genotype:
        """The run's architecture; raises UsageError if the file is missing or damaged."""
        if not self.genotype.is_file():
            raise UsageError(
                f"{self.shown}: no genotype.json yet; finish the search with: nas search --resume {self.quoted}"
            )
        return Genotype.load(self.genotype)

    def read_summary(self) -> dict[str, Any]:
        """The summary of a finished run; raises UsageError if the run is not finished, or the file is damaged."""
        summary = read_json(self.summary, f"{self.shown}: not finished (summary.json is missing)")
        if not SUMMARY_KEYS <= set(summary) or summary["stage"] not in STAGES:
            raise UsageError(f"{self.summary}: damaged")
        return summary

    def read_scores(self) -> dict[str, Any]:
        """What the derive strategy kept; empty without scores. Raises UsageError if the file is damaged."""
        return SCORES.load(self.scores) if self.scores.is_file() else {}

    def check_unchanged(self) -> None:
        """Raises UsageError if the configuration of a finished run was edited; the message says how to resume."""
        manifest = read_json(self.manifest, f"{self.shown}: not finished (manifest.json is missing)")
        digests = manifest.get("sha256")
        known = digests.get(self.config.name) if isinstance(digests, dict) else None
        if known is not None and known != sha256(self.config):
            raise UsageError(
                f"{self.shown}: config.yaml was changed after the run finished; to resume with the changed file, remove "
                "summary.json, genotype.json and manifest.json, and add --force"
            )

    def wait_for_events(self) -> None:
        """Waits up to two seconds, so that the next event file gets a later timestamp in its name than existing files.

        TensorBoard reads event files in the order of their names, and the timestamps are whole seconds.
        """
        names = [path.name.split(".") for path in self.path.glob("events.out.tfevents.*")]
        newest = max((int(words[3]) for words in names if words[3].isdecimal()), default=0)
        end = time.monotonic() + 2
        while int(time.time()) <= newest and time.monotonic() < end:
            time.sleep(0.02)

    def finish(self, summary: Mapping[str, Any], genotype: Genotype) -> None:
        """Writes summary.json, then genotype.json, then manifest.json."""
        write_json(self.summary, summary)
        genotype.save(self.genotype)
        ours = (self.manifest, self.path / LOCK)  # opening and closing the lock file would release the lock
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p not in ours)
        files = [p for p in files if self.retrain.path not in p.parents]
        manifest = {
            "versions": versions(),
            "git_commit": git_commit(),
            "sha256": {p.relative_to(self.path).as_posix(): sha256(p) for p in files},
        }
        write_json(self.manifest, manifest)
