"""Scores of outputs that do not depend on the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MajorityShare(Metric):
    """The share of the most frequent class: the accuracy of always predicting it.

    A mean over classes needs `divisor`, the number of classes, because other classes score 0.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, divisor: int = 1, ignore_index: int | None = None) -> None:
        super().__init__()
        self.divisor = divisor
        self.ignore_index = ignore_index
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, output: Any, target: Tensor) -> None:
        """Counts the classes of `target`, (*) int64."""
        if self.ignore_index is not None:
            target = target[target != self.ignore_index]
        self.counts += torch.bincount(target.flatten(), minlength=len(self.counts))

    def compute(self) -> Tensor:
        """The share."""
        return self.counts.max() / self.counts.sum() / self.divisor


class OneOfPresent(MajorityShare):
    """One divided by the number of classes that occur: the balanced accuracy of always predicting one of them."""

    def compute(self) -> Tensor:
        """The share."""
        return 1 / (self.counts > 0).sum()


class AlwaysPositive(Metric):
    """The mean over labels of the F1 of always predicting the label: 2 p / (1 + p) for labels with a share p of positive samples."""

    full_state_update = False
    number: Tensor
    positive: Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.add_state("number", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("positive", torch.zeros(num_labels, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, output: Any, target: Tensor) -> None:
        """Adds `target`, (B, num_labels) of 0 and 1."""
        self.number = self.number + len(target)
        self.positive = self.positive + target.long().sum(0)

    def compute(self) -> Tensor:
        """The mean."""
        return (2 * self.positive / (self.number + self.positive)).mean()


class VarianceOfTargets(Metric):
    """The mean over elements of the variance of targets: the mean squared error of always predicting their mean."""

    full_state_update = False
    number: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("number", "total", "squares"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, output: Any, target: Tensor) -> None:
        """Adds `target`, (B, *)."""
        self.number = self.number + len(target)
        self.total = self.total + target.double().sum(0)
        self.squares = self.squares + target.double().square().sum(0)

    def compute(self) -> Tensor:
        """The mean of the variances."""
        return (self.squares / self.number - (self.total / self.number).square()).mean()
