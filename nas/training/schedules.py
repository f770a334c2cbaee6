"""Learning rates over the steps of a run; a resumed run may have another number of steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nas.training.lr_schedules import LRSchedule, make_lr_scheduler, rate_share

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]

RUN = "run"
"""Name of the plan of the whole run; learning-rate plans have the names of their optimizers."""


@dataclass(frozen=True)
class Plan:
    """A completed share as a function of steps: linear up to `done`, then linear to 1 at `total`.

    Attributes:
        total: Total number of steps.
        done: Step at which the plan was changed; 0: never.
        share: Completed share at step `done`.
    """

    total: int
    done: int = 0
    share: float = 0.0

    def __call__(self, step: int) -> float:
        """The completed share after `step` steps, in [0, 1]."""
        left = max(1, self.total - self.done)
        return min(1.0, self.share + (1.0 - self.share) * ((step - self.done) / left))

    def changed(self, total: int, step: int) -> Plan:
        """The plan for a new total, changed after `step` steps; the same plan if the total is equal."""
        return self if total == self.total else Plan(total, step, self(step))


class Schedules:
    """The learning rates of named optimizers, and the progress of a run of `num_steps` batches.

    `schedules` maps the name of an optimizer to its schedule and number of steps. `plans` also has the plan of the whole run, ``run``.
    """

    def __init__(
        self, optimizers: Mapping[str, Optimizer], schedules: Mapping[str, tuple[LRSchedule, int]], num_steps: int
    ) -> None:
        self.optimizers = dict(optimizers)
        self.lr_schedulers = {
            name: make_lr_scheduler(kind, optimizers[name], n) for name, (kind, n) in schedules.items()
        }
        self.plans = {name: Plan(n) for name, (_, n) in schedules.items()} | {RUN: Plan(num_steps)}
        self._kinds = {name: kind for name, (kind, _) in schedules.items()}

    def advance(self, name: str) -> None:
        """Sets the next learning rate of an optimizer."""
        scheduler, plan = self.lr_schedulers[name], self.plans[name]
        if plan.done == 0 or not isinstance(self._kinds[name], str):  # a class has no share to stretch
            scheduler.step()
            return
        scheduler.last_epoch += 1
        for group in self.optimizers[name].param_groups:
            highest = group.get("max_lr", group.get("initial_lr", group["lr"]))
            group["lr"] = highest * rate_share(self._kinds[name], plan(scheduler.last_epoch))

    def state(self) -> dict[str, dict[str, float]]:
        """Name -> numbers of the plan."""
        return {name: asdict(plan) for name, plan in self.plans.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of optimizers, learning rates and plans; checkpoints of Lightning hold the first two themselves."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "lr_schedulers": {name: scheduler.state_dict() for name, scheduler in self.lr_schedulers.items()},
            "plans": self.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], num_batches_done: int) -> None:
        """Restores :meth:`state_dict` after so many batches."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            self.lr_schedulers[name].load_state_dict(state["lr_schedulers"][name])
        self.resume(state["plans"], num_batches_done)

    def resume(self, state: Mapping[str, Mapping[str, float]], num_batches_done: int) -> None:
        """Continues the plans of an earlier run; a new number of steps stretches or compresses the rest of each plan."""
        for name, numbers in state.items():
            if name in self.plans:
                step = num_batches_done if name == RUN else self.lr_schedulers[name].last_epoch
                self.plans[name] = Plan(**numbers).changed(self.plans[name].total, step)  # type: ignore[arg-type]
        plan = self.plans[RUN]
        if plan.done == num_batches_done > 0 and plan.share >= 1.0:
            warnings.warn(
                "the schedules had already ended: learning rates and tau stay at their last values", stacklevel=2
            )


def check_optimizer(name: str, factory: OptimizerFactory, schedule: LRSchedule = "constant") -> Optimizer:
    """Makes an optimizer and its schedule, and takes a step with a matrix and a vector.

    Raises:
        ValueError: The optimizer cannot be made or cannot take a step, for example because it needs sparse gradients or a closure; or the
            schedule cannot be made.
    """
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    try:
        optimizer = factory(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    try:
        make_lr_scheduler(schedule, optimizer, 100)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the schedule of {name} cannot be used: {error}") from error
    return optimizer
