"""The base class of data modules, which splits and loads the training set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from nas.data.loader import EpochBatches, Loading, ResumableLoader, Share, num_samples, sequential_loader
from nas.io.rng import keyed_generator

NOT_CALLED = (
    *("train_dataloader", "val_dataloader", "predict_dataloader", "teardown", "state_dict", "load_state_dict"),
    *("transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer"),
)
"""Methods of Lightning's data modules that the framework never calls. Overriding one is an error."""


class SearchDataModule(pl.LightningDataModule, ABC):
    """Train and test sets of (input, target) samples.

    A search never uses the test set. It splits the *training* set into a train split and an arch split. The train split trains the weights
    of the network. The arch split trains alpha and evaluates the derived network. Only `split_seed` determines the splits, so runs with
    different seeds have the same splits.

    Attributes:
        collate_fn: Makes a batch from samples, for example from sequences of different lengths; None: torch's default.
        preprocessing: A description of the preprocessing of raw inputs, for users of an exported network; empty if unknown.
    """

    preprocessing: str = ""
    collate_fn: Callable[[list[Any]], Any] | None = None

    def __init__(
        self,
        batch_size: int = 64,
        arch_fraction: float = 0.5,
        num_workers: int = 0,
        pin_memory: bool = False,
        split_seed: int = 0,
        prefetch_factor: int = 2,
    ) -> None:
        """Sets the options of the loaders.

        Args:
            batch_size: Number of samples in each batch of each process.
            arch_fraction: Share of the training set that becomes the arch split, in (0, 1).
            num_workers: Number of loader processes; 0: the main process loads the data.
            pin_memory: Use page-locked memory, for faster copies to a GPU.
            split_seed: Seed of the train split and the arch split.
            prefetch_factor: Number of batches that each loader process loads in advance.
        """
        super().__init__()
        for name in NOT_CALLED:
            if getattr(type(self), name) is not getattr(pl.LightningDataModule, name):
                raise ValueError(
                    f"{type(self).__name__}: the framework never calls {name}; nas.data.SearchDataModule lists the methods to override"
                )
        check_least(1, batch_size=batch_size, prefetch_factor=prefetch_factor)
        check_least(0, num_workers=num_workers)
        if not 0.0 < arch_fraction < 1.0:
            raise ValueError(f"arch_fraction must lie between 0 and 1, got {arch_fraction}")
        self._is_set_up = False
        self.batch_size = batch_size
        self.arch_fraction = arch_fraction
        self.split_seed = split_seed
        self.loading = Loading(num_workers, pin_memory, prefetch_factor)

    def prepare_data(self) -> None:
        """Downloads missing data if the configuration allows it. Called once before a training, never by commands that only read a run."""

    @abstractmethod
    def train_set(self, augment: bool) -> Dataset:
        """The training set, map-style.

        Args:
            augment: Whether to apply random augmentation.
        """

    @abstractmethod
    def test_set(self) -> Dataset:
        """The test set, map-style."""

    def _set_up(self) -> SearchDataModule:
        """This module after one call of Lightning's ``setup``."""
        if not self._is_set_up:
            self._is_set_up = True
            self.setup("fit")
        return self

    @cached_property
    def _augmented(self) -> Dataset:
        return self._set_up().train_set(True)

    @cached_property
    def _plain(self) -> Dataset:
        return self._set_up().train_set(False)

    @cached_property
    def _test(self) -> Dataset:
        return self._set_up().test_set()

    @cached_property
    def _halves(self) -> tuple[list[int], list[int]]:
        size = num_samples(self._plain)
        order = torch.randperm(size, generator=keyed_generator(self.split_seed, "split")).tolist()
        num_arch = round(size * self.arch_fraction)
        return sorted(order[num_arch:]), sorted(order[:num_arch])

    def search_loader(self, seed: int, *, rank: int = 0, world_size: int = 1) -> ResumableLoader:
        """Pairs of batches (train split, arch split). An epoch is one pass over the larger split.

        Raises:
            ValueError: A split has fewer samples than one batch.
        """
        weight, arch = self._halves
        for name, half in (("train", weight), ("arch", arch)):
            self._check_size(len(half), f"the {name} split of the training set", world_size)
        share = Share(self.batch_size, rank, world_size)
        num_batches = max(len(weight), len(arch)) // share.num_samples
        return ResumableLoader(
            [
                self._stream(Subset(self._augmented, half), EpochBatches(len(half), share, seed, name, num_batches))
                for name, half in (("weight", weight), ("arch", arch))
            ]
        )

    def retrain_loader(self, seed: int, *, rank: int = 0, world_size: int = 1) -> ResumableLoader:
        """Batches of the whole training set, augmented.

        Raises:
            ValueError: The training set has fewer samples than one batch.
        """
        size = num_samples(self._augmented)
        self._check_size(size, "the training set", world_size)
        batches = EpochBatches(size, Share(self.batch_size, rank, world_size), seed, "retrain")
        return ResumableLoader([self._stream(self._augmented, batches)])

    def fold_loaders(self, seed: int, fold: int, num_folds: int) -> tuple[ResumableLoader, DataLoader]:
        """Augmented batches of the training set without one fold; and batches of this fold in order, not augmented.

        Only `split_seed` determines the folds.

        Args:
            seed: Seed of the order of batches.
            fold: Index of the held-out fold.
            num_folds: Number of folds, at least 2.

        Raises:
            ValueError: The training set has fewer samples than folds, or the rest is smaller than one batch.
        """
        size = num_samples(self._plain)
        if size < num_folds:
            raise ValueError(f"{type(self).__name__}: a training set of {size} samples cannot be cut into {num_folds}")
        order = torch.randperm(size, generator=keyed_generator(self.split_seed, "folds")).tolist()
        left_out = sorted(order[fold::num_folds])
        rest = sorted(set(order) - set(left_out))
        self._check_size(len(rest), f"the training set without one of {num_folds} parts", 1)
        stream = self._stream(
            Subset(self._augmented, rest), EpochBatches(len(rest), Share(self.batch_size), seed, "retrain")
        )
        return ResumableLoader([stream]), self._sequential(Subset(self._plain, left_out))

    def weight_loader(self) -> DataLoader:
        """The train split in order, not augmented."""
        return self._sequential(Subset(self._plain, self._halves[0]))

    def arch_loader(self) -> DataLoader:
        """The arch split in order, not augmented."""
        return self._sequential(Subset(self._plain, self._halves[1]))

    def test_dataloader(self) -> DataLoader:
        """The test set in order."""
        if num_samples(self._test) == 0:
            raise ValueError(f"{type(self).__name__}: the test set is empty")
        return self._sequential(self._test)

    def example(self, size: int = 2) -> Any:
        """One collated training batch of the first samples, for shapes and counts."""
        self._check_size(num_samples(self._plain), "the training set", 1)
        first = Subset(self._plain, [min(i, num_samples(self._plain) - 1) for i in range(size)])
        loading = self._collated()._replace(num_workers=0, pin_memory=False)
        return self._checked(next(iter(sequential_loader(first, size, loading))))

    def train_targets(self) -> Tensor | None:
        """All training targets if the dataset stores them in one array (TensorDataset, torchvision), otherwise None."""
        return _targets(self._plain)

    def test_targets(self) -> Tensor | None:
        """All test targets, like :meth:`train_targets`."""
        return _targets(self._test)

    def _sequential(self, dataset: Dataset) -> DataLoader:
        return sequential_loader(dataset, self.batch_size, self._collated())

    def _stream(self, dataset: Dataset, batches: EpochBatches) -> tuple[EpochBatches, DataLoader]:
        return batches, batches.loader(dataset, self._collated())

    def _checked(self, batch: Any) -> Any:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(f"{type(self).__name__}: a training sample must be (input, target)")
        return batch

    def _collated(self) -> Loading:
        return self.loading if self.collate_fn is None else self.loading._replace(collate=self.collate_fn)

    def _check_size(self, size: int, name: str, world_size: int) -> None:
        needed = self.batch_size * world_size
        if size == 0:
            raise ValueError(f"{type(self).__name__}: {name} is empty")
        if size < needed:
            raise ValueError(f"{type(self).__name__}: {name} has {size} samples, fewer than one batch of {needed}")


def check_least(least: int, **numbers: int) -> None:
    """Raises ValueError for a number below `least`."""
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")


def _targets(dataset: Dataset) -> Tensor | None:
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1]
    targets = getattr(dataset, "targets", None)
    try:
        return None if targets is None else torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):  # for example dicts, or sequences of different lengths
        return None
