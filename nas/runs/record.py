"""Records the conditions at the start of a run, so that the run resumes only under equal conditions."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback

from nas.costs.latency import device_name
from nas.io.errors import UsageError
from nas.io.files import sha256
from nas.io.versions import versions
from nas.runs.options import normalized

MACHINE = "machine"
NUM_SHOWN = 5


class RunProvenance(Callback):
    """Stores configuration, versions, digests of the user's modules, and number of processes in every checkpoint.

    Args:
        configuration: The text of config.yaml.
        trusted: Modules of the user.
        force: Whether differences only cause a warning.
        resolve: Fills in the defaults of keys that a configuration of an earlier version does not have.
    """

    state_key = "Record"  # in checkpoints

    def __init__(
        self,
        configuration: str,
        trusted: Sequence[str],
        *,
        force: bool = False,
        resolve: Callable[[Any], Any] = normalized,
    ) -> None:
        self.force = force
        self.resolve = resolve
        self.present: dict[str, Any] = {
            "configuration": configuration,
            "versions": versions(),
            "sources": {name: _source_of(name) for name in trusted},
        }

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self.present |= _of(trainer)

    def state_dict(self) -> dict[str, Any]:
        return self.present

    def compare(self, checkpoint: Mapping[str, Any], path: Path, trainer: pl.Trainer) -> None:
        """Compares the current conditions with the conditions in a checkpoint.

        Raises:
            UsageError: A condition that affects the run's numbers differs, unless `force` is set. The message lists the differences.
        """
        begun = dict(checkpoint.get("callbacks", {}).get(self.state_key, {}))
        present = self.present | _of(trainer)
        here, there = present.pop(MACHINE), begun.pop(MACHINE, None)
        shown = {key: present.get(key) for key in begun}
        changes = [] if begun == shown else list(_changes(_read(begun, self.resolve), _read(shown, normalized), ""))
        if changes:
            more = f"; and {len(changes) - NUM_SHOWN} more" if len(changes) > NUM_SHOWN else ""
            text = f"{path}: the run began with other settings: {'; '.join(changes[:NUM_SHOWN])}{more}"
            if not self.force:
                raise UsageError(f"{text}; --force resumes anyway")
            warnings.warn(text, stacklevel=2)
        elif there not in (None, here):
            warnings.warn(f"{path}: written on {there}, resumed on {here}; sums may round differently", stacklevel=2)


def _of(trainer: pl.Trainer) -> dict[str, Any]:
    return {"processes": trainer.world_size, MACHINE: device_name(trainer.strategy.root_device)}


def _source_of(name: str) -> str | None:
    """A digest of the source files of a module and its imported submodules; None without source files."""
    modules = [key for key in sorted(sys.modules) if key == name or key.startswith(f"{name}.")]
    paths = [path for key in modules if (path := getattr(sys.modules[key], "__file__", None))]
    digests = [sha256(path)[:12] for path in paths]
    return "+".join(digests) if digests else None


def _read(record: Mapping[str, Any], resolve: Callable[[Any], Any]) -> dict[str, Any]:
    """A record with its configuration as plain values."""
    return {key: resolve(yaml.safe_load(value)) if key == "configuration" else value for key, value in record.items()}


def _changes(old: Any, new: Any, place: str) -> Iterator[str]:
    """A phrase for each difference between two trees of plain values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _changes(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    elif old != new:
        yield f"{place.removeprefix('configuration.')} was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
