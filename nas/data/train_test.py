"""Data that a function returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from nas.data.base import SearchDataModule


class TrainTest(SearchDataModule):
    """A training set and a test set that a function returns.

    Each set is a map-style dataset of (input, target) samples, or a pair of tensors or arrays: all inputs and all targets.

    Args:
        load: Returns (training set, test set).
        **loading: batch_size and the other arguments of :class:`nas.data.SearchDataModule`.

    Raises:
        ValueError: `load` returns something else, or inputs and targets differ in number.
    """

    def __init__(self, load: Callable[[], Sequence[Any]], **loading: Any) -> None:
        super().__init__(**loading)
        self.name = getattr(load, "__name__", type(load).__name__)
        made = load()
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            found = type(made).__name__ + (f" of {len(made)}" if isinstance(made, (tuple, list)) else "")
            raise ValueError(f"{self.name} must return (training set, test set), got {found}")
        self._train, self._held_out = map(self._dataset, made)

    def train_set(self, augment: bool) -> Dataset:
        return self._train

    def test_set(self) -> Dataset:
        return self._held_out

    def _dataset(self, given: Any) -> Dataset:
        if not isinstance(given, (tuple, list)):
            return given
        try:
            inputs, targets = map(torch.as_tensor, given)
            return TensorDataset(inputs, targets)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"{self.name}: a set must be a dataset, or (inputs, targets): {error}") from None
