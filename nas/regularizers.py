"""Terms of the arch loss and perturbations of the op weights during a search; any number of them can be combined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nas.bilevel import Level
from nas.io.rng import uniform_like
from nas.relaxations import Softmax
from nas.relaxations.base import masked_logits
from nas.supernet.gate import KEEP, LABELS


class ArchState(NamedTuple):
    """The state that regularizers depend on.

    Attributes:
        choices: choice name -> labels.
        alpha: (E, K) logits.
        mask: (E, K) bool, False in padded columns.
        probabilities: (E, K) probabilities of the relaxation, differentiable in alpha.
        tau: 0-d, the current temperature.
        progress: Completed share of the search, in [0, 1].
    """

    choices: Mapping[str, Sequence[str]]
    alpha: Tensor
    mask: Tensor
    probabilities: Tensor
    tau: Tensor
    progress: float


class Regularizer:
    """A term of the loss of the arch parameters, a perturbation of the op weights, or both."""

    needs_all_candidates = False
    reads_rows = False
    """Whether the term reads the rows of alpha, which are not all logits where choices depend on each other."""

    def penalty(self, state: ArchState) -> Tensor | None:
        """The 0-d term, multiplied by its weight; None: no term."""
        return None

    def perturb(self, weights: Tensor, state: ArchState, level: Level, generator: torch.Generator) -> Tensor:
        """The op weights of one forward pass; by default the drawn op weights.

        Args:
            weights: The drawn op weights.
            state: The current state.
            level: The parameter set that is trained on the loss of this pass.
            generator: Source of the noise, keyed to (seed, batch, level).

        Shape:
            - weights, result: (E, K), or (E, B, K) per sample
        """
        return weights


class Ramp:
    """A number that changes linearly over the search, from `start` to `end` (None: constant)."""

    def __init__(self, start: float, end: float | None = None) -> None:
        self.start = start
        self.end = start if end is None else end
        for value in (self.start, self.end):
            if not math.isfinite(value):
                raise ValueError(f"a regularizer's numbers must be finite, got {value}")

    def __call__(self, progress: float) -> float:
        """The value at the completed share `progress` of the search."""
        return self.start + (self.end - self.start) * progress


class Entropy(Regularizer):
    """``weight`` times the mean entropy of the choices, in nats.

    Args:
        weight: Factor of the mean entropy. A positive weight drives choices to a decision, a negative weight to exploration.
        end_weight: Factor at the end of the search, reached linearly; null: `weight`.
        at_tau: Use ``softmax(alpha / tau)`` instead of the relaxation's probabilities, so that a learned tau gets a gradient.
    """

    def __init__(self, weight: float, end_weight: float | None = None, at_tau: bool = False) -> None:
        self.weight = Ramp(weight, end_weight)
        self.at_tau = at_tau
        self.reads_rows = at_tau

    def penalty(self, state: ArchState) -> Tensor:
        probabilities = state.probabilities
        if self.at_tau:
            probabilities = Softmax()(state.alpha, state.tau, mask=state.mask)
        return self.weight(state.progress) * entropy(probabilities).mean()


class Sparsity(Regularizer):
    """``weight`` times the mean keep probability over all gates (``nas.gate``); all gates count equally.

    Args:
        weight: Factor of the mean probability.
        end_weight: Factor at the end of the search, reached linearly; null: `weight`.

    Source: Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization", equation 2, with binary Concrete gates.
    """

    def __init__(self, weight: float, end_weight: float | None = None) -> None:
        self.weight = Ramp(weight, end_weight)

    def penalty(self, state: ArchState) -> Tensor | None:
        gates = [row for row, labels in enumerate(state.choices.values()) if tuple(labels) == LABELS]
        if not gates:
            return None
        return self.weight(state.progress) * state.probabilities[gates, LABELS.index(KEEP)].mean()


class AlphaDecay(Regularizer):
    """``weight / 2`` times the sum of squares of alpha: pulls every choice toward equal probabilities.

    Unlike the optimizer's weight decay, it is a term of the loss. It is therefore equal under Adam and SGD, and can be scheduled.

    Args:
        weight: Factor, at least 0.
        end_weight: Factor at the end of the search, reached linearly; null: `weight`.
    """

    reads_rows = True

    def __init__(self, weight: float, end_weight: float | None = None) -> None:
        self.weight = Ramp(weight, end_weight)

    def penalty(self, state: ArchState) -> Tensor:
        return self.weight(state.progress) / 2 * state.alpha.masked_fill(~state.mask, 0.0).square().sum()


class BetaDecay(Regularizer):
    """``weight`` times the mean of ``logsumexp(alpha)`` over choices. It limits large logits and thereby their variance.

    Args:
        weight: Factor at the start of the search.
        end_weight: Factor at the end, reached linearly; null: `weight`.

    Source: Ye et al. 2022, "beta-DARTS: Beta-Decay Regularization for Differentiable Architecture Search".
    """

    reads_rows = True

    def __init__(self, weight: float = 0.0, end_weight: float | None = 50.0) -> None:
        self.weight = Ramp(weight, end_weight)

    def penalty(self, state: ArchState) -> Tensor:
        return self.weight(state.progress) * torch.logsumexp(masked_logits(state.alpha, state.mask), -1).mean()


class Perturbation(Regularizer):
    """Adds uniform noise to the op weights while the network's weights are trained, so that alpha moves to a flat region of the loss.

    Args:
        epsilon: Noise amplitude at the start of the search, at least 0; noise lies in [-epsilon, epsilon].
        end_epsilon: Noise amplitude at the end, reached linearly; null: `epsilon`.

    Source: Chen and Hsieh 2020, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization" (SDARTS-RS).
    """

    needs_all_candidates = True

    def __init__(self, epsilon: float = 0.03, end_epsilon: float | None = 0.3) -> None:
        for value in (epsilon, end_epsilon):
            if value is not None and value < 0:
                raise ValueError(f"Perturbation: epsilon must be at least 0, got {value}")
        self.epsilon = Ramp(epsilon, end_epsilon)

    def perturb(self, weights: Tensor, state: ArchState, level: Level, generator: torch.Generator) -> Tensor:
        if level == "arch":
            return weights
        noise = self.epsilon(state.progress) * (2 * uniform_like(weights, generator) - 1)
        noisy = (weights + noise).clamp_min(0.0) * _like_weights(state.mask, weights)
        total = noisy.sum(-1, keepdim=True)
        return torch.where(total > 0, noisy / total.clamp_min(torch.finfo(noisy.dtype).tiny), weights)


class SkipDropout(Regularizer):
    """Drops skip connections at random: their op weights become 0. Other op weights of skip connections are scaled up to keep the mean.

    Without this dropout, skip connections win early because they need no training.

    Args:
        labels: Labels of the candidates that are skip connections.
        rate: Probability of dropping at the start of the search, in [0, 1).
        end_rate: Probability at the end, reached linearly; null: `rate`.

    Source: Chen et al. 2019, "Progressive Differentiable Architecture Search" (P-DARTS), section 3.3.

    Deviation: P-DARTS drops elements of a skip connection's output; here the whole output is dropped, for the batch or, with noise per
    sample, for the sample.
    """

    needs_all_candidates = True

    def __init__(
        self, labels: Sequence[str] = ("skip_connect",), rate: float = 0.5, end_rate: float | None = 0.0
    ) -> None:
        for value in (rate, end_rate):
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"SkipDropout: rates must lie in [0, 1), got {value}")
        if isinstance(labels, str):
            raise ValueError(f"SkipDropout: labels must be a list, got {labels!r}")
        self.labels = tuple(labels)
        self.rate = Ramp(rate, end_rate)

    def perturb(self, weights: Tensor, state: ArchState, level: Level, generator: torch.Generator) -> Tensor:
        rate = self.rate(state.progress)
        rows = [
            [k < len(labels) and labels[k] in self.labels for k in range(weights.shape[-1])]
            for labels in state.choices.values()
        ]
        is_skip = _like_weights(torch.tensor(rows, device=weights.device), weights)
        kept = uniform_like(weights, generator) >= rate
        return torch.where(is_skip, weights * kept / (1 - rate), weights)


def _like_weights(rows: Tensor, weights: Tensor) -> Tensor:
    """(E, K) rows, reshaped to broadcast against op weights (E, K) or (E, B, K)."""
    return rows if weights.dim() == 2 else rows[:, None]


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy along the last axis in nats; zeros contribute nothing to value and gradient.

    Shape:
        - probabilities: (..., K)
        - result: (...)
    """
    positive = probabilities > 0
    safe = torch.where(positive, probabilities, torch.ones_like(probabilities))
    return -(safe * safe.log()).sum(-1)
