"""Learning-rate schedules by name or class, with one step per batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

LRSchedule = Literal["constant", "cosine", "one_cycle"] | Callable[[Optimizer], LRScheduler]
"""A schedule by name, or a class of ``torch.optim.lr_scheduler`` with its arguments."""


def rate_share(name: LRSchedule, progress: float) -> float:
    """The learning rate of :func:`make_lr_scheduler` after the share `progress` of the steps, as a share of the highest rate."""
    if name == "constant":
        return 1.0
    if name == "cosine":
        return _between(1.0, 0.0, progress)
    first, last = 1 / 25, 1 / 25 / 1e4  # OneCycleLR's defaults, which rise for 30 % of the steps
    return _between(first, 1.0, progress / 0.3) if progress < 0.3 else _between(1.0, last, (progress - 0.3) / 0.7)


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def make_lr_scheduler(name: LRSchedule, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The named schedule over `num_steps` optimizer steps. The optimizer's learning rates are the highest rates of the schedule.

    ``cosine`` falls to 0 along half a cosine. ``one_cycle`` rises to the highest rate, then falls to nearly 0 (Smith and Topin 2019,
    "Super-Convergence"). A class makes its own scheduler, which steps after every batch.

    Raises:
        ValueError: An unknown name, or a class whose steps need a metric.
    """
    if not isinstance(name, str):
        scheduler = name(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError("ReduceLROnPlateau needs a metric for each step; use another schedule")
        return scheduler
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=num_steps)
    if name == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=num_steps, cycle_momentum=False)
    raise ValueError(f"unknown learning-rate schedule {name!r}; expected constant, cosine or one_cycle")
