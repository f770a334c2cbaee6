"""Smooths the scores of architectures that share labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nas.genotype import labels_of


def smoothed(architectures: Sequence[Mapping[str, Any]], scores: Sequence[float], penalty: float = 1.0) -> list[float]:
    """Ridge regression of the scores on labels and pairs of labels. Larger `penalty` moves the scores closer to their mean.

    The best of many noisy scores is too optimistic; scores of other architectures with the same pairs correct it. The regression is solved
    in dual form: two architectures that agree in m labels share 1 + m + m (m - 1) / 2 features.
    """
    if not scores:
        return []
    values = torch.tensor(scores, dtype=torch.float64)
    kernel = features_in_common(architectures)
    identity = torch.eye(len(scores), dtype=torch.float64)
    smooth: Tensor = kernel @ torch.linalg.solve(kernel + penalty * identity, values - values.mean()) + values.mean()
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
