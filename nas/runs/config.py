"""Reads YAML configurations and makes the objects of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from nas.callbacks.guards import GuardOptions
from nas.data import SearchDataModule
from nas.derive import DeriveStrategy
from nas.io.errors import UsageError, as_usage_error
from nas.runs.class_paths import check_named, reading_files
from nas.runs.options import ConfigSource, normalized
from nas.runs.record import RunProvenance
from nas.runs.schema import RetrainOptions, Target, make_parser, read_targets
from nas.runs.trainer import TrainerOptions
from nas.tasks import Task


@dataclass(frozen=True)
class Experiment:
    """An instantiated configuration.

    Attributes:
        source: Files, overrides and trusted modules that it was read from.
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
    """

    source: ConfigSource
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

    @property
    def trusted(self) -> tuple[str, ...]:
        """Modules of the user that the configuration may name."""
        return self.source.trusted

    @property
    def data(self) -> SearchDataModule:
        """The data module, made at the first access; raises UsageError if the data cannot be read."""
        return self.make_data()

    @property
    def retrain_task(self) -> Task:
        """The task of the retraining."""
        task: Task = self.retrain.task or self.model["task"]
        return task

    def for_retrain(self) -> Experiment:
        """The stage ``"retrain"``, with the objects of the same data and space unless the retrain section changes these.

        Raises:
            UsageError: The retrain section does not fit.
        """
        with as_usage_error("retrain"), reading_files(self.source.shown, self.trusted):
            parser = make_parser()
            applied, parsed = _retraining(self.values, parser, self.source)
            made = _instantiated(self.source, parser, parsed, self.values, applied)
        retrain = self.values["retrain"]
        if not retrain["space"]:
            made = replace(made, model={**made.model, "space": self.model["space"]})
        return made if retrain["data"] else replace(made, make_data=self.make_data)

    def record(self, *, force: bool = False) -> RunProvenance:
        """The conditions of a run of this configuration, for its checkpoints."""
        resolve = partial(resolved, trusted=self.trusted)
        return RunProvenance(self.yaml, self.trusted, force=force, resolve=resolve)

    @cached_property
    def yaml(self) -> str:
        """The text of config.yaml."""
        return yaml_text(self.values)


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain values as the text of a configuration."""
    return yaml.safe_dump(dict(values), sort_keys=False, width=120)


def load_experiment(source: ConfigSource, *, stage: str = "search") -> Experiment:
    """Reads, checks and instantiates a configuration; its data are made when they are first used.

    The stage ``"retrain"`` applies the changes of the retrain section to trainer, space and data.

    Raises:
        UsageError: The configuration is wrong. The message names the file, key or value in one line.
    """
    words, parser = source.words, make_parser()
    with reading_files(source.shown, source.trusted):
        parsed = parser.parse_args(words)
        check_named(parsed, source.trusted)
        values = applied = _plain(parser, parsed)
        if stage == "retrain":
            applied, parsed = _retraining(values, parser, source)
        return _instantiated(source, parser, parsed, values, applied)


def load_retraining(source: ConfigSource) -> Experiment:
    """The configuration for the stage ``"retrain"``; raises UsageError if the retrain section does not fit."""
    with as_usage_error("retrain"):
        return load_experiment(source, stage="retrain")


def _instantiated(
    source: ConfigSource, parser: ArgumentParser, parsed: Namespace, values: dict[str, Any], applied: dict[str, Any]
) -> Experiment:
    """The experiment of `parsed`, which the parser has made from `applied`: `values`, perhaps with the changes of its retrain section."""
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
        with reading_files(source.shown, source.trusted):
            result: SearchDataModule = parser.instantiate(data).data
        return result

    for task in filter(None, (model["task"], made.retrain.task)):
        task.teach(model["space"].parent)
    return Experiment(
        source=source,
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
    )


def _retraining(
    values: Mapping[str, Any], parser: ArgumentParser, source: ConfigSource
) -> tuple[dict[str, Any], Namespace]:
    """The configuration with the changes of its retrain section, as plain values and parsed."""
    retrain, model = values["retrain"], values["model"]
    applied = {
        **values,
        "trainer": {**values["trainer"], **(retrain["trainer"] or {})},
        "model": {**model, "space": with_arguments(model["space"], retrain["space"])},
        "data": with_arguments(values["data"], retrain["data"]),
    }
    parsed = parser.parse_object(applied)
    check_named(parsed, source.trusted)
    return applied, parsed


def resolved(values: Any, trusted: Sequence[str]) -> Any:
    """The plain values of a configuration with all defaults; unchanged if the parser refuses them."""
    parser = make_parser()
    try:
        with reading_files("configuration", trusted):
            parsed = parser.parse_object(values)
            check_named(parsed, trusted)
            return _plain(parser, parsed)
    except UsageError:
        return normalized(values)


def _plain(parser: ArgumentParser, parsed: Namespace) -> dict[str, Any]:
    text = parser.dump(parsed, skip_unset=False, skip_validation=True)  # the parser has just made it
    values: dict[str, Any] = normalized(yaml.safe_load(text))
    values.pop("config", None)
    return values


def with_arguments(spec: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A class path and its arguments, some of them changed; raises UsageError if the arguments are no mapping."""
    arguments = spec.get("init_args") or {}
    if not isinstance(arguments, Mapping) or not isinstance(changes or {}, Mapping):
        raise UsageError(f"{spec.get('class_path')}: init_args must be a mapping of arguments, got {arguments!r:.80}")
    return {**spec, "init_args": {**arguments, **(changes or {})}}
