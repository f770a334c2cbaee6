"""Temperature schedules: how tau, the temperature of a relaxation, moves during a search."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


def _positive(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ValueError(f"tau: {name} must be a finite number above 0, got {value!r}")
    return float(value)


def _share(progress: float) -> float:
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"tau: progress must lie in [0, 1], got {progress!r}")
    return progress


class TauSchedule(nn.Module, ABC):
    """What sets tau. A module, so that a learned tau has parameters and a stateful schedule has buffers.

    Parameters join the arch optimizer; buffers are part of every checkpoint.
    """

    @abstractmethod
    def forward(self, progress: float) -> Tensor:
        """Tau at a point of the search.

        Args:
            progress: Completed share of the search, in [0, 1].

        Returns:
            A 0-d tensor above 0.
        """

    def observe(self, mean_entropy: float, progress: float) -> None:
        """Called once an epoch with the mean entropy of the choices, in nats; the same values on every rank.

        Does nothing unless overridden.
        """


class Constant(TauSchedule):
    """The same tau throughout."""

    def __init__(self, value: float = 1.0) -> None:
        """Sets the schedule.

        Args:
            value: Tau, above 0.
        """
        super().__init__()
        self.value = _positive("value", value)

    def forward(self, progress: float) -> Tensor:
        _share(progress)
        return torch.tensor(self.value)


class _Annealed(TauSchedule):
    def __init__(self, start: float = 5.0, end: float = 0.2) -> None:
        """Sets the schedule.

        Args:
            start: Tau at the beginning, above 0.
            end: Tau at the end, above 0.
        """
        super().__init__()
        self.start = _positive("start", start)
        self.end = _positive("end", end)

    def forward(self, progress: float) -> Tensor:
        return torch.tensor(self._value(_share(progress)))

    def _value(self, progress: float) -> float:
        raise NotImplementedError


class Linear(_Annealed):
    """From `start` to `end` in a straight line."""

    def _value(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


class Exponential(_Annealed):
    """From `start` to `end` by a constant factor a step: ``start * (end / start) ** progress``.

    Source: Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax", section 3.
    """

    def _value(self, progress: float) -> float:
        return self.start * (self.end / self.start) ** progress


class Cosine(_Annealed):
    """From `start` to `end` along half a cosine: flat at both ends, steepest in the middle."""

    def _value(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * progress)) / 2.0
