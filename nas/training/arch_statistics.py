"""Statistics of the probabilities and gradients of alpha."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from nas.alpha import Joint
from nas.relaxations import Relaxation
from nas.supernet.supernet import Supernet

Probabilities = Mapping[str, Mapping[str, float]]
"""Choice name -> label -> probability."""


def argmax_of(probabilities: Probabilities) -> Tensor:
    """The index of the most probable candidate of each choice, (E,) int64; in a tie, the first."""
    rows = [list(row.values()) for row in probabilities.values()]
    return torch.tensor([row.index(max(row)) for row in rows], dtype=torch.int64)


def entropies_of(probabilities: Probabilities, frozen: Collection[str]) -> dict[str, float]:
    """The entropy (nats) of every choice that is not in `frozen`."""
    rows = {name: list(row.values()) for name, row in probabilities.items() if name not in frozen}
    return {name: -sum(p * math.log(p) for p in row if p > 0) for name, row in rows.items()}


def kind_shares(probabilities: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean probability of each label over the choices that have it, for labels that several choices have."""
    found: dict[str, list[float]] = {}
    for row in probabilities.values():
        for label, probability in row.items():
            found.setdefault(label, []).append(probability)
    return {label: sum(values) / len(values) for label, values in found.items() if len(values) > 1}


class GradientStatistics(Metric):
    """Mean and spread of a gradient over the steps of an epoch (Welford 1962). Only :meth:`compute` synchronizes the device.

    Attributes:
        square: Sum of squared distances from the mean.
    """

    full_state_update = False

    def __init__(self, shape: torch.Size) -> None:
        super().__init__(sync_on_compute=False)  # all processes see the same, averaged gradient
        self.count: Tensor
        self.mean: Tensor
        self.square: Tensor
        self.add_state("count", torch.zeros(()), persistent=True)
        self.add_state("mean", torch.zeros(shape), persistent=True)
        self.add_state("square", torch.zeros(shape), persistent=True)

    def update(self, gradient: Tensor) -> None:
        gradient = gradient.detach().to(self.mean.dtype)
        self.count += 1
        difference = gradient - self.mean
        self.mean += difference / self.count
        self.square += difference * (gradient - self.mean)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The norm of the mean gradient, and the ratio of this norm to the standard deviation of a single step's gradient."""
        norm = self.mean.norm()
        spread = (self.square.sum() / (self.count - 1).clamp(min=1)).sqrt()
        return norm, norm / spread


def gradient_scalars(statistics: GradientStatistics) -> dict[str, float | None]:
    """The norm of alpha's mean gradient and its signal-to-noise ratio; None if nothing was measured."""
    norm, ratio = statistics.compute() if statistics.count > 0 else (None, None)
    return {
        "search/alpha_grad_norm": None if norm is None else float(norm),
        "search/alpha_grad_snr": None if ratio is None or not torch.isfinite(ratio) else float(ratio),
    }


def joint_scalars(joint: Joint) -> dict[str, float | None]:
    """The entropy (nats) of the distribution over architectures, and the probability of the most probable one."""
    return {
        "search/joint_entropy": joint.entropy()[0],
        "search/mode_probability": float(joint.most_probable(1)[1][0]),
    }


def probability_scalars(probabilities: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """The mean probability of each label that several choices have, and the probability of every candidate."""
    result: dict[str, float | None] = {f"kind/{label}": share for label, share in kind_shares(probabilities).items()}
    for name, row in probabilities.items():
        result |= {f"choice/{name}/{label}": p for label, p in row.items()}
    return result


def supernet_scalars(supernet: Supernet, relaxation: Relaxation) -> dict[str, float | None]:
    """The mean entropy (nats) of the choices that are not frozen, and :func:`probability_scalars`."""
    probabilities = supernet.probabilities(relaxation)
    entropies = entropies_of(probabilities, supernet.frozen)
    return {"search/entropy": mean_of(entropies), **probability_scalars(probabilities)}


def mean_of(entropies: Mapping[str, float]) -> float | None:
    """The mean entropy (nats) of the choices; None without choices."""
    return sum(entropies.values()) / len(entropies) if entropies else None


def entropy_share(entropies: Mapping[str, float], choices: Mapping[str, Sequence[str]]) -> float | None:
    """The mean entropy (nats) as a share of its maximum; None without entropies."""
    most = sum(math.log(len(choices[name])) for name in entropies)
    return sum(entropies.values()) / most if entropies else None
