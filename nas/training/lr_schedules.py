"""Learning-rate schedules by name, stepped once a batch."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

LRSchedule = Literal["constant", "cosine", "one_cycle"]


def rate_share(name: LRSchedule, progress: float) -> float:
    """The learning rate of :func:`make_lr_scheduler` at a share of the steps, as a share of the highest rate.

    Args:
        name: The schedule.
        progress: The share of the steps, in [0, 1].
    """
    if name == "constant":
        return 1.0
    if name == "cosine":
        return _between(1.0, 0.0, progress)
    first, last = 1 / 25, 1 / 25 / 1e4  # OneCycleLR's defaults, 30 % of the steps upward
    return _between(first, 1.0, progress / 0.3) if progress < 0.3 else _between(1.0, last, (progress - 0.3) / 0.7)


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def make_lr_scheduler(name: LRSchedule, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The named schedule over `num_steps` optimizer steps.

    Args:
        name: ``constant``; ``cosine`` (to 0 along half a cosine); ``one_cycle`` (warm-up to the optimizer's learning rate, then down to
            nearly 0; Smith and Topin 2019, "Super-Convergence").
        optimizer: The optimizer; its learning rates are the highest rates of the schedule.
        num_steps: Total number of steps.
    """
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=num_steps)
    if name == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=num_steps, cycle_momentum=False)
    raise ValueError(f"unknown learning-rate schedule {name!r}; expected constant, cosine or one_cycle")
