"""The schema of configurations: the parser with all keys and defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser
from torch.optim import AdamW

from nas.callbacks.guards import GuardOptions
from nas.costs.functions import COSTS, CostFunction
from nas.data import SearchDataModule
from nas.derive import DeriveStrategy
from nas.io.errors import UsageError
from nas.runs.class_paths import import_function
from nas.runs.trainer import TrainerOptions
from nas.tasks import Task
from nas.training.lr_schedules import LRSchedule
from nas.training.schedules import OptimizerFactory
from nas.training.search_module import SearchModule


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """Settings for training the derived network.

    Attributes:
        trainer: Trainer options that differ from the search.
        optimizer: Optimizer of the weights.
        scheduler: Schedule of the learning rate.
        gradient_clip_norm: Largest norm of the gradient; null: no limit.
        max_skipped_batches: Largest number of skipped batches. A batch is skipped if its loss or gradient is not finite. One more such
            batch stops the training.
        num_micro_batches: Number of parts of each batch. The parts run one after the other, and their gradients are added.
        space: init_args of the space that differ from the search, for example channels.
        data: init_args of the data that differ from the search, for example batch_size.
        task: Task of the retraining, for example with label smoothing; null: the task of the search.
        inherit: Start from the weights of the search.
    """

    trainer: dict[str, Any] | None = None
    optimizer: OptimizerFactory = AdamW
    scheduler: LRSchedule = "constant"
    gradient_clip_norm: float | None = None
    max_skipped_batches: int = 0
    num_micro_batches: int = 1
    space: dict | None = None  # not dict[str, Any]: jsonargparse would instantiate class paths inside it
    data: dict | None = None
    task: Task | None = None
    inherit: bool = False


class Target(NamedTuple):
    """A cost of the retrained network, its limit, and the weight of its penalty in the search.

    `name` is a key of `COSTS`, or the dotted path of a function of the user.
    """

    name: str
    max: float
    weight: float
    function: CostFunction


@cache  # making it takes longer than parsing, which leaves it as it is
def make_parser() -> ArgumentParser:
    """The parser of configurations. It is the only source of their defaults."""
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


def read_targets(values: Mapping[str, Any], trusted: Sequence[str]) -> tuple[Target, ...]:
    """The targets of ``model.cost`` (cost name -> {max, weight}); raises UsageError for unknown costs or keys and wrong numbers."""
    targets = []
    for name, options in values.items():
        if not isinstance(name, str) or (name not in COSTS and "." not in name):
            raise UsageError(
                f"unknown cost {name!r}; expected {', '.join(COSTS)}, or the dotted path of your own function"
            )
        if not isinstance(options, Mapping) or "max" not in options or not set(options) <= {"max", "weight"}:
            raise UsageError(f"{name} must be {{max: NUMBER}} or {{max: NUMBER, weight: NUMBER}}, got {options!r:.80}")
        for key, value in options.items():
            number = _number(value)
            if not math.isfinite(number) or number < 0 or (key == "max" and number == 0):
                raise UsageError(f"{name}.{key} must be a number above 0, got {value!r:.80}")
        function = COSTS[name] if name in COSTS else import_function(name, trusted)
        targets.append(Target(name, float(options["max"]), float(options.get("weight", 1.0)), function))
    return tuple(targets)


def _number(value: Any) -> float:
    """A number, or a string from the command line as a number; NaN for any other value."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
