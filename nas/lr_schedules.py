"""Learning-rate schedules by name, stepped once a batch."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

LRSchedule = Literal["constant", "cosine", "one_cycle"]


def make_lr_scheduler(name: LRSchedule, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The named schedule over `num_steps` optimizer steps.

    Args:
        name: ``constant``; ``cosine`` (to 0 along half a cosine); ``one_cycle`` (warm-up to the optimizer's learning rate, then down to
            nearly 0; Smith and Topin 2019, "Super-Convergence").
        optimizer: Its learning rates are the highest of the schedule.
        num_steps: Steps in all.
    """
    if name == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=num_steps)
    if name == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(
            optimizer, rates, total_steps=num_steps, cycle_momentum=False
        )  # momentum is the optimizer's own
    raise ValueError(f"unknown learning-rate schedule {name!r}; expected constant, cosine or one_cycle")
