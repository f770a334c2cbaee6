"""Smooths the scores of architectures that share labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nas.genotype import labels_of

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Strengths of the ridge that are compared; a larger one moves scores closer to their mean."""


def smoothed(architectures: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> list[float]:
    """Ridge regression of the scores on labels and pairs of labels, with the penalty that has the smallest leave-one-out error.

    The best of many noisy scores is too optimistic; scores of other architectures with the same pairs correct it. The regression is solved
    in dual form: two architectures that agree in m labels share 1 + m + m (m - 1) / 2 features. The error of each score under the fit to
    all others is its residual divided by 1 - h, where h is its own weight in its fit.

    Source: Allen 1974, "The Relationship Between Variable Selection and Data Augmentation and a Method for Prediction" (PRESS).
    """
    if len(scores) < 2:
        return list(scores)
    values = torch.tensor(scores, dtype=torch.float64)
    centered = values - values.mean()
    eigenvalues, vectors = torch.linalg.eigh(features_in_common(architectures))
    fits = []
    for penalty in PENALTIES:
        hat = (vectors * (eigenvalues.clamp_min(0) / (eigenvalues.clamp_min(0) + penalty))) @ vectors.T
        fit = hat @ centered
        error = ((centered - fit) / (1 - hat.diagonal())).square().mean()
        fits.append((float(error), fit))
    smooth = min(fits, key=lambda pair: pair[0])[1] + values.mean()
    return [float(value) for value in smooth]


def features_in_common(architectures: Sequence[Mapping[str, Any]]) -> Tensor:
    """The number of features (constant, labels, pairs of labels) that any two architectures share.

    Shape:
        - result: (N, N) float64
    """
    items = sorted({item for choices in architectures for item in _items(choices)})
    column = {item: i for i, item in enumerate(items)}
    has = torch.zeros(len(architectures), len(items), dtype=torch.float64)
    for row, choices in enumerate(architectures):
        has[row, [column[item] for item in _items(choices)]] = 1.0
    agreeing = has @ has.T
    return 1.0 + agreeing + agreeing * (agreeing - 1.0) / 2.0


def _items(choices: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, label) for name, value in choices.items() for label in labels_of(value)]
