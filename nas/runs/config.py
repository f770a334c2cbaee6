"""Configurations: from YAML to the objects of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch.optim import AdamW

from nas.callbacks.guards import GuardOptions
from nas.costs.functions import COSTS, CostFunction
from nas.data import SearchDataModule
from nas.derive import DeriveStrategy
from nas.io.errors import UsageError, describe
from nas.lr_schedules import LRSchedule
from nas.runs.class_paths import allowed_imports, check_named, import_function, refusal
from nas.runs.options import ConfigSource, check_texts, check_yaml, normalized
from nas.runs.trainer import TrainerOptions
from nas.supernet.search_space import SearchSpace
from nas.tasks import Task
from nas.training.schedules import OptimizerFactory
from nas.training.search_module import SearchModule


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """How the derived network is trained.

    Attributes:
        trainer: Trainer options that differ from the search's.
        optimizer: Optimizer of the weights.
        scheduler: Learning rate over the training.
        gradient_clip_norm: Largest norm of the gradient; null: as it comes.
        max_skipped_batches: So many batches whose loss or gradient is not finite are left out; the next one stops the training.
        num_micro_batches: Parts of each batch that run one after the other, their gradients added up.
        space: init_args of the space that differ when retraining, for example channels.
        data: init_args of the data that differ when retraining, for example batch_size.
        task: Task to train on, for example with label smoothing; null: the search's.
        inherit: Start from the weights found by the search.
    """

    trainer: dict[str, Any] | None = None
    optimizer: OptimizerFactory = AdamW
    scheduler: LRSchedule = "constant"
    gradient_clip_norm: float | None = None
    max_skipped_batches: int = 0
    num_micro_batches: int = 1
    space: dict | None = None  # not dict[str, Any]: jsonargparse would take class paths inside for classes to make
    data: dict | None = None
    task: Task | None = None
    inherit: bool = False


class Target(NamedTuple):
    """A cost, and the most that the retrained network's may be.

    Attributes:
        name: Its word, or the dotted path of a function of the user's.
        max: The limit, above 0.
        weight: Factor of the penalty while searching.
        function: What computes it.
    """

    name: str
    max: float
    weight: float
    function: CostFunction


@dataclass(frozen=True)
class Experiment:
    """A configuration, instantiated.

    Attributes:
        seed: seed_everything.
        trainer: Trainer options.
        model: Arguments of :class:`nas.SearchModule`.
        derive: The derive strategy.
        guards: Guards against collapse.
        targets: Costs, and the most that they may be.
        make_data: Makes the data, once.
        retrain: How the derived network is trained.
        values: The resolved configuration as plain values.
        applied: The same with the retrain section's differences applied, where it was loaded for that stage.
        trusted: The user's own modules that it names.
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
        """The data, made when they are first asked for.

        Raises:
            UsageError: They cannot be made.
        """
        return self.make_data()

    def yaml(self) -> str:
        """The text of config.yaml."""
        return yaml.safe_dump(self.values, sort_keys=False, width=120)


def load_experiment(source: ConfigSource, *, stage: str = "search") -> Experiment:
    """Reads, checks and instantiates a configuration.

    Args:
        source: Where it comes from.
        stage: ``"search"``, or ``"retrain"``: then what the retrain section says of trainer, space and data is applied.

    Raises:
        UsageError: Anything wrong with it, in one line that names file, key or value.
    """
    for path in source.files:
        check_yaml(path)
    where = ", ".join(str(path) for path in source.files)
    parser = make_parser()
    with _explained(where, source.trusted):
        check_texts([word.partition("=")[2] or word for word in source.overrides], "overrides")
        words = [word for path in source.files for word in ("--config", str(path))]
        parsed = parser.parse_args([*words, *source.overrides])
        check_named(parsed, source.trusted)
        values = _plain(parser, parsed)
        applied = values if stage == "search" else _retraining(values)
        if stage == "retrain":
            parsed = parser.parse_object(applied)
            check_named(parsed, source.trusted)
        data = Namespace(data=parsed.pop("data"))
        made = parser.instantiate(parsed)

    @cache
    def make_data() -> SearchDataModule:
        with _explained(where, source.trusted):
            result: SearchDataModule = parser.instantiate(data).data
        return result

    if not isinstance(made.seed_everything, int):
        raise UsageError(f"{where}: seed_everything must be a whole number, got {made.seed_everything}")
    model = dict(vars(made.model))
    derive, guards = model.pop("derive"), model.pop("guards")
    try:
        targets = read_targets(model.pop("cost"), source.trusted)
    except UsageError as error:
        raise UsageError(f"{where}: model.cost: {error}") from error
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


@contextmanager
def _explained(where: str, trusted: Sequence[str]) -> Iterator[None]:
    """Lets files name what they may, and turns whatever is wrong with them into a :class:`UsageError` that begins with `where`."""
    with allowed_imports(trusted):
        try:
            yield
        except ArgumentError as error:
            raise UsageError(f"{where}: {_short(error)}") from None
        except Exception as error:  # a user's own class may raise anything
            raise UsageError(f"{where}: {describe(error)}") from error


def read_targets(values: Mapping[str, Any], trusted: Sequence[str]) -> tuple[Target, ...]:
    """The targets of ``model.cost``: cost name -> {max, weight}.

    Raises:
        UsageError: An unknown cost or key, or a number out of range.
    """
    targets = []
    for name, options in values.items():
        if not isinstance(name, str) or (name not in COSTS and "." not in name):
            raise UsageError(
                f"no cost is called {name!r}; there are {', '.join(COSTS)}, or the dotted path of a function of yours"
            )
        if not isinstance(options, Mapping) or "max" not in options or not set(options) <= {"max", "weight"}:
            raise UsageError(
                f"{name} must be given as {{max: NUMBER}}, or {{max: NUMBER, weight: NUMBER}}, got {options!r:.80}"
            )
        for key, value in options.items():
            number = _finite_number(value)
            if number is None or not (number > 0 or (key == "weight" and number == 0)):
                raise UsageError(f"{name}.{key} must be a number above 0, got {value!r:.80}")
        function = COSTS[name] if name in COSTS else import_function(name, trusted)
        targets.append(Target(name, float(options["max"]), float(options.get("weight", 1.0)), function))
    return tuple(targets)


def _finite_number(value: Any) -> float | None:
    """A number, also as the text that the command line gives; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def make_parser() -> ArgumentParser:
    """The parser of configurations; also the one source of their defaults."""
    parser = ArgumentParser(prog="nas", exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--trainer", type=TrainerOptions, default=TrainerOptions())
    parser.add_class_arguments(SearchModule, "model", skip={"seed"}, instantiate=False)
    parser.add_argument("--model.cost", type=dict[str, Any], default={})
    parser.add_argument("--model.derive", type=DeriveStrategy, default={"class_path": "nas.derive.Argmax"})
    parser.add_argument("--model.guards", type=GuardOptions, default=GuardOptions())
    parser.add_argument("--data", type=SearchDataModule, required=True)
    parser.add_argument("--retrain", type=RetrainOptions, default=RetrainOptions())
    return parser


def _plain(parser: ArgumentParser, parsed: Namespace) -> dict[str, Any]:
    text = parser.dump(parsed, skip_unset=False)
    values: dict[str, Any] = normalized(yaml.safe_load(text))
    values.pop("config", None)
    return values


def _retraining(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the retrain section's differences applied."""
    retrain = values["retrain"]
    result = {**values, "trainer": {**values["trainer"], **(retrain["trainer"] or {})}}
    result["model"] = {**values["model"], "space": _with_arguments(values["model"]["space"], retrain["space"])}
    result["data"] = _with_arguments(values["data"], retrain["data"])
    return result


def _with_arguments(spec: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**spec, "init_args": {**spec.get("init_args", {}), **(changes or {})}}


def _short(error: ArgumentError) -> str:
    text = " ".join(str(error).split()).removeprefix("Parser key ")
    denied = re.search(r"Importing '([^']*)' is not allowed", text)
    if not denied:
        return text
    where = re.sub(r"Problem with given class_path '[^']*': $", "", text[: denied.start()])
    return f"{where}{refusal(denied[1])}"


def load_space(spec: Mapping[str, Any], trusted: Sequence[str], source: str = "space") -> SearchSpace:
    """The search space of a class path and its arguments.

    Args:
        spec: ``{"class_path", "init_args"}``.
        trusted: Modules that may be named.
        source: What error messages begin with.

    Raises:
        UsageError: A class that may not be named, or arguments that do not fit.
    """
    parser = ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.add_argument("--space", type=SearchSpace, required=True)
    with _explained(source, trusted):
        check_texts(dict(spec), "init_args")
        parsed = parser.parse_object({"space": dict(spec)})
        check_named(parsed, trusted)
        space: SearchSpace = parser.instantiate(parsed).space
    return space


def load_space_of(source: ConfigSource) -> SearchSpace:
    """The search space of a resolved configuration, without its data.

    Raises:
        UsageError: It cannot be made.
    """
    for path in source.files:
        check_yaml(path)
    path = source.files[-1]
    model = yaml.safe_load(path.read_text()).get("model")
    spec = model.get("space") if isinstance(model, dict) else None
    if not isinstance(spec, dict):
        raise UsageError(f"{path}: model.space must be a class path with its arguments, got {spec!r:.80}")
    return load_space(spec, source.trusted, f"{path}: model.space")
