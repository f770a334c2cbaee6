"""scikit-learn's bundled breast cancer measurements: nothing is downloaded."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from nas.data.base import SearchDataModule

NUM_TRAIN = 400


class BreastCancer(SearchDataModule):
    """569 tumours, 30 measurements each, 400 for training and 169 for test; samples (30,) float32, targets 0 malignant, 1 benign.

    Each measurement is standardised by its mean and standard deviation over the training set.

    Source: W. Wolberg, O. Mangasarian, N. Street and W. Street 1995, "Breast Cancer Wisconsin (Diagnostic)", UCI repository, as shipped by
    scikit-learn.
    """

    preprocessing = "each measurement minus its mean, divided by its standard deviation, both over the training set"

    def train_set(self, augment: bool) -> Dataset:
        return self._set(slice(None, NUM_TRAIN))

    def test_set(self) -> Dataset:
        return self._set(slice(NUM_TRAIN, None))

    def _set(self, part: slice) -> Dataset:
        values, labels = _tumours()
        return TensorDataset(values[part], labels[part])


@cache
def _tumours() -> tuple[Tensor, Tensor]:
    """All samples in a fixed random order."""
    values, labels = load_breast_cancer(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(values, dtype=torch.float64)[order]
    train = x[:NUM_TRAIN]
    x = (x - train.mean(0)) / train.std(0)
    return x.float(), torch.tensor(labels, dtype=torch.int64)[order]
