"""Reads YAML configurations and makes the objects of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from jsonargparse import Namespace

from nas.callbacks.guards import GuardOptions
from nas.data import SearchDataModule
from nas.derive import DeriveStrategy
from nas.io.errors import as_usage_error
from nas.runs.class_paths import check_named, reading_files
from nas.runs.options import ConfigSource, check_texts, check_yaml, normalized
from nas.runs.schema import RetrainOptions, Target, make_parser, read_targets
from nas.runs.trainer import TrainerOptions
from nas.tasks import Task


@dataclass(frozen=True)
class Experiment:
    """An instantiated configuration.

    Attributes:
        seed: The value of ``seed_everything``.
        trainer: Trainer options.
        model: Arguments of :class:`nas.SearchModule`.
        derive: The derive strategy.
        guards: Guards against collapse.
        targets: Costs and their limits.
        make_data: Makes the data at the first call and returns the same object afterwards.
        retrain: Settings of the retraining.
        values: The resolved configuration as plain values.
        applied: `values`, in the stage ``"retrain"`` with the changes of the retrain section.
        trusted: Modules of the user that the configuration may name.
    """

    seed: int
    trainer: TrainerOptions
    model: dict[str, Any]
    derive: DeriveStrategy
    guards: GuardOptions
    targets: tuple[Target, ...]
    make_data: Callable[[], SearchDataModule]
    retrain: RetrainOptions
    values: dict[str, Any]
    applied: dict[str, Any]
    trusted: tuple[str, ...]

    @property
    def data(self) -> SearchDataModule:
        """The data module, made at the first access; raises UsageError if the data cannot be read."""
        return self.make_data()

    @property
    def retrain_task(self) -> Task:
        """The task of the retraining."""
        task: Task = self.retrain.task or self.model["task"]
        return task

    def yaml(self) -> str:
        """The text of config.yaml."""
        return yaml.safe_dump(self.values, sort_keys=False, width=120)


def load_experiment(source: ConfigSource, *, stage: str = "search") -> Experiment:
    """Reads, checks and instantiates a configuration.

    The stage ``"retrain"`` applies the changes of the retrain section to trainer, space and data.

    Raises:
        UsageError: The configuration is wrong. The message names the file, key or value in one line.
    """
    for path in source.files:
        check_yaml(path)
    where = ", ".join(str(path) for path in source.files)
    parser = make_parser()
    with reading_files(where, source.trusted):
        check_texts([word.partition("=")[2] or word for word in source.overrides], "overrides")
        words = [word for path in source.files for word in ("--config", str(path))]
        parsed = parser.parse_args([*words, *source.overrides])
        check_named(parsed, source.trusted)
        values: dict[str, Any] = normalized(yaml.safe_load(parser.dump(parsed, skip_unset=False)))
        values.pop("config", None)
        applied = values
        if stage == "retrain":
            applied = _retraining(values)
            parsed = parser.parse_object(applied)
            check_named(parsed, source.trusted)
        data = Namespace(data=parsed.pop("data"))
        made = parser.instantiate(parsed)
        if not isinstance(made.seed_everything, int):
            raise ValueError(f"seed_everything must be a whole number, got {made.seed_everything}")
        model = dict(vars(made.model))
        derive, guards = model.pop("derive"), model.pop("guards")
        with as_usage_error("model.cost"):
            targets = read_targets(model.pop("cost"), source.trusted)

    @cache
    def make_data() -> SearchDataModule:
        with reading_files(where, source.trusted):
            result: SearchDataModule = parser.instantiate(data).data
        return result

    return Experiment(
        seed=made.seed_everything,
        trainer=made.trainer,
        model=model,
        derive=derive,
        guards=guards,
        targets=targets,
        make_data=make_data,
        retrain=made.retrain,
        values=values,
        applied=applied,
        trusted=source.trusted,
    )


def load_retraining(source: ConfigSource) -> Experiment:
    """The configuration for the stage ``"retrain"``; raises UsageError if the retrain section does not fit."""
    with as_usage_error("retrain"):
        return load_experiment(source, stage="retrain")


def _retraining(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the changes of its retrain section applied."""
    retrain, model = values["retrain"], values["model"]
    return {
        **values,
        "trainer": {**values["trainer"], **(retrain["trainer"] or {})},
        "model": {**model, "space": with_arguments(model["space"], retrain["space"])},
        "data": with_arguments(values["data"], retrain["data"]),
    }


def with_arguments(spec: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A class path and its arguments, some of them changed."""
    return {**spec, "init_args": {**spec.get("init_args", {}), **(changes or {})}}
