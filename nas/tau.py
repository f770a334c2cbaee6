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
    """Base class of tau schedules. A schedule is a module: a learned tau has parameters, and a stateful schedule has buffers.

    The arch optimizer trains the parameters. Checkpoints hold the buffers.
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
        """Called once per epoch with the mean entropy of the choices (nats, equal on every rank). Does nothing by default."""

    def observe_diversity(self, diversity: float, progress: float) -> None:
        """Called once per epoch with a diversity that the task measures, equal on every rank. Does nothing by default.

        A search passes the metric ``diversity`` of its task, measured on the train split; your own loop calls this method.
        """

    @property
    def needs_diversity(self) -> bool:
        """Whether the schedule cannot do its work without :meth:`observe_diversity`."""
        return False


class Constant(TauSchedule):
    """The same tau during the whole search.

    Args:
        value: Tau, above 0.
    """

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = _positive("value", value)

    def forward(self, progress: float) -> Tensor:
        _share(progress)
        return torch.tensor(self.value)


class _Annealed(TauSchedule):
    def __init__(self, start: float = 5.0, end: float = 0.2, delay: float = 0.0) -> None:
        """Sets the schedule.

        Args:
            start: Tau at the beginning, above 0.
            end: Tau at the end, above 0.
            delay: Share of the search before tau moves, in [0, 1): for example the share of a warm-up.
        """
        super().__init__()
        self.start = _positive("start", start)
        self.end = _positive("end", end)
        if not 0.0 <= delay < 1.0:
            raise ValueError(f"tau: delay must lie in [0, 1), got {delay!r}")
        self.delay = delay

    def forward(self, progress: float) -> Tensor:
        share = max(0.0, _share(progress) - self.delay) / (1.0 - self.delay)
        return torch.tensor(self._value(share))

    def _value(self, progress: float) -> float:
        raise NotImplementedError


class Linear(_Annealed):
    """From `start` to `end` in a straight line."""

    def _value(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


class Exponential(_Annealed):
    """From `start` to `end` by a constant factor per step: ``start * (end / start) ** progress``.

    Source: Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax", section 3.
    """

    def _value(self, progress: float) -> float:
        return self.start * (self.end / self.start) ** progress


class Cosine(_Annealed):
    """From `start` to `end` along half a cosine: flat at both ends, steepest in the middle."""

    def _value(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * progress)) / 2.0


class LearnedTau(TauSchedule):
    """A positive parameter, trained with the arch parameters.

    Tau follows the gradient of the loss. To maintain exploration, add ``nas.regularizers.Entropy`` with a negative weight and
    ``at_tau: true``: its gradient raises tau.

    Args:
        start: Tau at the beginning, above `floor`.
        floor: Lower limit of tau, above 0; tau stays above it.

    Source: Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax", section 2.2 (tau as a learned parameter).
    """

    def __init__(self, start: float = 1.0, floor: float = 0.05) -> None:
        super().__init__()
        self.floor = _positive("floor", floor)
        if _positive("start", start) <= floor:
            raise ValueError(f"tau: start must be above floor {floor}, got {start}")
        self.log_excess = nn.Parameter(torch.tensor(math.log(start - floor)))

    def forward(self, progress: float) -> Tensor:
        _share(progress)
        return self.floor + self.log_excess.exp()


class _Reheated(TauSchedule):
    """Raises the tau of another schedule temporarily, from the moments at which a subclass calls :meth:`_heat`."""

    def __init__(self, schedule: TauSchedule, factor: float, duration: float, until: float) -> None:
        super().__init__()
        if _positive("factor", factor) <= 1:
            raise ValueError(f"tau: factor must be above 1, got {factor}")
        if _positive("duration", duration) > 1:
            raise ValueError(f"tau: duration must be at most 1, got {duration}")
        self.schedule = schedule
        self.factor = factor
        self.duration = duration
        self.until = _share(until)
        self.start: Tensor  # progress at the beginning of the last re-heating
        self.register_buffer("start", torch.tensor(-torch.inf, dtype=torch.float64))

    def forward(self, progress: float) -> Tensor:
        left = (1 - (progress - self.start) / self.duration).clamp(0, 1)
        return self.schedule(progress) * (self.factor**left).float()

    def observe(self, mean_entropy: float, progress: float) -> None:
        self.schedule.observe(mean_entropy, progress)

    def observe_diversity(self, diversity: float, progress: float) -> None:
        self.schedule.observe_diversity(diversity, progress)

    @property
    def needs_diversity(self) -> bool:
        return self.schedule.needs_diversity

    def _heat(self, progress: float) -> None:
        """Begins a re-heating, unless it is late or one is under way."""
        if progress < self.until and progress - float(self.start) >= self.duration:
            self.start.fill_(progress)


class Reheating(_Reheated):
    """Raises the tau of another schedule temporarily when the choices collapse early.

    If the mean entropy of the choices falls below `min_entropy` before the share `until` of the search, tau is multiplied by `factor`.
    The factor decays exponentially to 1 over the share `duration` of the search. Another re-heating may follow.

    Args:
        schedule: The schedule of tau outside of re-heatings.
        min_entropy: Mean entropy in nats below which choices count as collapsed, above 0.
        factor: Factor of tau at the beginning of a re-heating, above 1.
        duration: Length of a re-heating as a share of the search, in (0, 1].
        until: Share of the search after which low entropy is intended, in [0, 1].
    """

    def __init__(
        self,
        schedule: TauSchedule,
        min_entropy: float = 0.5,
        factor: float = 5.0,
        duration: float = 0.1,
        until: float = 0.7,
    ) -> None:
        super().__init__(schedule, factor, duration, until)
        self.min_entropy = _positive("min_entropy", min_entropy)

    def observe(self, mean_entropy: float, progress: float) -> None:
        super().observe(mean_entropy, progress)
        if mean_entropy < self.min_entropy:
            self._heat(progress)


class DiversityReheating(_Reheated):
    """Raises the tau of another schedule temporarily when a measured diversity collapses: distinct samples, used clusters, used experts.

    If the diversity falls below the share `min_share` of its best value so far, tau is multiplied by `factor`, as in :class:`Reheating`.
    A search needs a task with a metric ``diversity``; your own loop calls :meth:`observe_diversity`.

    Args:
        schedule: The schedule of tau outside of re-heatings.
        min_share: Share of the reference below which diversity counts as collapsed, in (0, 1).
        reference: The diversity of a healthy training, above 0; null: the best value so far.
        factor: Factor of tau at the beginning of a re-heating, above 1.
        duration: Length of a re-heating as a share of the search, in (0, 1].
        until: Share of the search after which low diversity is intended, in [0, 1].
    """

    def __init__(
        self,
        schedule: TauSchedule,
        min_share: float = 0.5,
        reference: float | None = None,
        factor: float = 5.0,
        duration: float = 0.1,
        until: float = 0.7,
    ) -> None:
        super().__init__(schedule, factor, duration, until)
        if not 0.0 < min_share < 1.0:
            raise ValueError(f"tau: min_share must lie between 0 and 1, got {min_share!r}")
        self.min_share = min_share
        self.reference = None if reference is None else _positive("reference", reference)
        self.best: Tensor  # largest diversity so far
        self.register_buffer("best", torch.tensor(0.0, dtype=torch.float64))

    @property
    def needs_diversity(self) -> bool:
        return True

    def observe_diversity(self, diversity: float, progress: float) -> None:
        """Begins a re-heating after a collapse.

        Raises:
            ValueError: The diversity is negative or not finite.
        """
        if not 0.0 <= diversity < math.inf:
            raise ValueError(f"tau: diversity must be a finite number of at least 0, got {diversity!r}")
        super().observe_diversity(diversity, progress)
        self.best.fill_(max(float(self.best), diversity))
        if diversity < self.min_share * (self.reference or float(self.best)):
            self._heat(progress)
