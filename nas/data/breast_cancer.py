"""The breast cancer measurements that scikit-learn contains; nothing is downloaded."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from nas.data.base import SearchDataModule
from nas.io.rng import keyed_generator

NUM_TRAIN = 400
NUM_FEATURES = 30


class BreastCancer(SearchDataModule):
    """569 tumors with 30 measurements each: 400 for training, 169 for test. Samples (30 + decoys,) float32; targets 0 malignant, 1 benign.

    Each measurement is standardized with its mean and standard deviation over the training set. A decoy is a measurement whose values are
    shuffled over the tumors. Decoys have the distribution of measurements, but no information about the target.

    Args:
        num_decoys: Number of decoys, which follow the measurements. Decoy i shuffles measurement i modulo 30.
        num_train: Number of tumors used for training, at most 400.
        **loading: batch_size and the other arguments of :class:`nas.data.SearchDataModule`.

    Raises:
        ValueError: A number out of range.

    Source: W. Wolberg, O. Mangasarian, N. Street and W. Street 1995, "Breast Cancer Wisconsin (Diagnostic)", UCI repository, as shipped by
    scikit-learn.
    """

    preprocessing = "each measurement minus its mean, divided by its standard deviation, both over the training set"

    def __init__(self, *, num_decoys: int = 0, num_train: int = NUM_TRAIN, **loading: Any) -> None:
        super().__init__(**loading)
        if num_decoys < 0:
            raise ValueError(f"BreastCancer: num_decoys must be at least 0, got {num_decoys}")
        if not 2 <= num_train <= NUM_TRAIN:
            raise ValueError(f"BreastCancer: num_train must lie in 2 ... {NUM_TRAIN}, got {num_train}")
        self.num_decoys = num_decoys
        self.num_train = num_train

    def train_set(self, augment: bool) -> Dataset:
        return self._set(slice(None, self.num_train))

    def test_set(self) -> Dataset:
        return self._set(slice(NUM_TRAIN, None))

    def _set(self, part: slice) -> Dataset:
        values, labels = _tumors(self.num_decoys, self.num_train)
        return TensorDataset(values[part], labels[part])


@cache
def _tumors(num_decoys: int, num_train: int) -> tuple[Tensor, Tensor]:
    """The inputs and targets of all tumors, in a fixed random order."""
    values, labels = load_breast_cancer(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(values, dtype=torch.float64)[order]
    columns = [
        x[torch.randperm(len(x), generator=keyed_generator(0, "decoy", i)), i % NUM_FEATURES] for i in range(num_decoys)
    ]
    x = torch.cat([x, *(column[:, None] for column in columns)], dim=1)
    train = x[:num_train]
    x = (x - train.mean(0)) / train.std(0)
    return x.float(), torch.tensor(labels, dtype=torch.int64)[order]
