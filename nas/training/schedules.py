"""Learning rates over the steps of a run, also where a resumed run has another number of steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from nas.training.lr_schedules import LRSchedule, make_lr_scheduler, rate_share

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]

RUN = "run"
"""The plan of the whole run, beside the plans of the learning rates."""


@dataclass(frozen=True)
class Plan:
    """A completed share as a function of steps: linear up to `done`, then linear to 1 at `total`.

    Attributes:
        total: Steps in all.
        done: Steps at which the plan was changed; 0: never.
        share: Completed share at that step.
    """

    total: int
    done: int = 0
    share: float = 0.0

    def __call__(self, step: int) -> float:
        """The completed share after `step` steps, in [0, 1]."""
        left = max(1, self.total - self.done)
        return min(1.0, self.share + (1.0 - self.share) * ((step - self.done) / left))

    def changed(self, total: int, step: int) -> Plan:
        """The plan for another total, changed after `step` steps; the same plan where the total is the same."""
        return self if total == self.total else Plan(total, step, self(step))


class Schedules:
    """The learning rates of named optimizers, and the progress of the run.

    Args:
        optimizers: Name -> optimizer.
        schedules: Name -> schedule of that optimizer, and its number of steps.
        num_steps: Batches of the whole run.

    Attributes:
        optimizers: Name -> optimizer.
        lr_schedulers: Name -> torch's scheduler of that optimizer.
        plans: Name -> plan; the plan of the whole run is called ``run``.
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
        if plan.done == 0:
            scheduler.step()
            return
        scheduler.last_epoch += 1
        for group in self.optimizers[name].param_groups:
            highest = group.get("max_lr", group.get("initial_lr", group["lr"]))
            group["lr"] = highest * rate_share(self._kinds[name], plan(scheduler.last_epoch))

    def state(self) -> dict[str, dict[str, float]]:
        """Name -> numbers of the plan."""
        return {name: asdict(plan) for name, plan in self.plans.items()}

    def resume(self, state: Mapping[str, Mapping[str, float]], num_batches_done: int) -> None:
        """Continues the plans of an earlier run; another number of steps stretches the rest of each plan.

        Args:
            state: From :meth:`state`.
            num_batches_done: Batches that the run has done.
        """
        for name, numbers in state.items():
            if name in self.plans:
                step = num_batches_done if name == RUN else self.lr_schedulers[name].last_epoch
                self.plans[name] = Plan(**numbers).changed(self.plans[name].total, step)  # type: ignore[arg-type]
        plan = self.plans[RUN]
        if plan.done == num_batches_done > 0 and plan.share >= 1.0:
            warnings.warn(
                "the schedules were at their end: learning rates and tau stay at their last values", stacklevel=2
            )


def check_optimizer(name: str, factory: OptimizerFactory) -> Optimizer:
    """Takes a step with a matrix and a vector, as a search will.

    Args:
        name: What messages call it.
        factory: Makes it.

    Raises:
        ValueError: It cannot be made or stepped; sparse and closure optimizers for example.
    """
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    try:
        optimizer = factory(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    return optimizer
