"""Old dotted paths of moved modules, so that old imports and class paths still work."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_DOORS = {
    "io": "checkpoint_io csv_file distributed errors files folder_lock markdown parent rng",
    "supernet": "building candidates choices input_choice mixed_op search_space structure",
    "supernet.fused": "folding merging mixture",
    "costs": "latency limits module_key",
    "training": "arch_statistics cost_penalty lr_schedules retrain_module search_module train_module",
    "relaxations": "estimators",
}
MOVED: Mapping[str, str] = {
    **{f"nas.{name}": f"nas.{door}.{name}" for door, names in _DOORS.items() for name in names.split()},
    **{
        f"nas.runs.{name}": f"nas.runs.stages.{name}"
        for name in "baseline derive evaluate export load retrain search".split()
    },
    "nas.choice_module": "nas.supernet.base",
    "nas.module_copy": "nas.supernet.modules",
    "nas.gates": "nas.supernet.gate",
    "nas.repeats": "nas.supernet.repeat",
    "nas.widths": "nas.supernet.width",
    "nas.cost_model": "nas.costs.tabulate",
    "nas.cost_table": "nas.costs.table",
    "nas.concrete_dropout": "nas.dropout",
    "nas.replanning": "nas.training.schedules",
    "nas.runs.table": "nas.benchmark",
}
"""Old path -> new path."""


class _Moved(MetaPathFinder, Loader):
    """Finds a moved module under its old path."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # the import system has set it to the spec of the old path


def follow_old_paths() -> None:
    """Makes imports of old paths return the modules at the new paths, in this process."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())


def metrics_of(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics of each process in a checkpoint; older checkpoints call them meters."""
    if "metrics" in checkpoint:
        return list(checkpoint["metrics"])
    return [{_METERS.sub(r"\1_metrics.", key): value for key, value in state.items()} for state in checkpoint["meters"]]


def rename_metrics(module: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook before ``load_state_dict`` that renames the metrics of an older checkpoint."""
    old = f"{prefix}meters."
    for key in [key for key in state_dict if key.startswith(old)]:
        state_dict[f"{prefix}metrics." + _METERS.sub(r"\1_metrics.", key.removeprefix(old))] = state_dict.pop(key)


_METERS = re.compile(r"^(\w+?)_meters\.")  # not the names of metrics, for example num_parameters
