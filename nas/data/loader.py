"""Loaders with an order that is a pure function of (seed, epoch). They can resume in the middle of an epoch."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from nas.io.rng import derive_seed, keyed_generator

GRACE_SECONDS = 30

Position = tuple[int, int]  # (epoch, index within the dataset)


class KeyedDataset(Dataset):
    """Seeds the augmentation of each sample with (seed, epoch, index), so that workers and the order of loading have no effect."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.draws = not _is_plain(dataset)

    def __getitem__(self, position: Position) -> Any:
        """The sample at (epoch, index)."""
        epoch, index = position
        if not self.draws:
            return self.dataset[index]
        with drawing_from(derive_seed(self.seed, "augment", epoch, index)):
            return self.dataset[index]

    def __getitems__(self, positions: list[Position]) -> Any:
        """The samples at several positions. Rows of tensors are read together as a batch."""
        if self.draws:
            return [self[position] for position in positions]
        dataset: Any = self.dataset
        indices = [index for _, index in positions]
        while isinstance(dataset, Subset):
            dataset, indices = dataset.dataset, [dataset.indices[index] for index in indices]
        return Rows(tensor[indices] for tensor in dataset.tensors)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Seeds the global generators of torch, Python and numpy for a block, and restores their states afterwards."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


class Rows(list):
    """A batch that is already collated."""


def collate(samples: Any, make: Callable[[list[Any]], Any] = default_collate) -> Any:
    """Makes a batch from samples with `make`, unless the samples are already a batch."""
    return list(samples) if isinstance(samples, Rows) else make(samples)


def outlive_signals(worker: int) -> None:
    """Makes a loader process outlive signals to the whole process group, while its parent finishes the batch and saves."""
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda signum, frame: signal.alarm(GRACE_SECONDS))  # the alarm ends the process


def _is_plain(dataset: Dataset) -> bool:
    """Whether samples are rows of tensors, which need no seeding: seeding takes longer than reading (24 us on a 2-core CPU)."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return type(dataset) is TensorDataset


class Loading(NamedTuple):
    """Options of DataLoader that do not change the batches."""

    num_workers: int
    pin_memory: bool
    prefetch_factor: int
    collate: Callable[[list[Any]], Any] = default_collate

    def loader(self, dataset: Dataset, **arguments: Any) -> DataLoader:
        """A DataLoader with these options."""
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            generator=torch.Generator(),  # otherwise, each epoch would use the global generator
            **arguments,
        )


class Share(NamedTuple):
    """The share of one process (`rank`) in every batch; each process gets `batch_size` samples."""

    batch_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def num_samples(self) -> int:
        """Number of samples in a batch over all processes."""
        return self.batch_size * self.world_size

    def of(self, samples: list[Any]) -> list[Any]:
        """The samples of this process among the samples of all processes."""
        return samples[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]


class Batches(Protocol):
    """The batches of one dataset. Loading starts at batch `first` of epoch `epoch`."""

    epoch: int
    first: int

    def __len__(self) -> int:
        """Batches of an epoch."""


class EpochBatches:
    """Yields the sample positions of this process for each batch of one epoch.

    (seed, purpose, epoch) seeds the permutation. An incomplete last batch is dropped. `num_batches` is the length of an epoch
    (None: one permutation); a longer epoch uses more permutations.
    """

    def __init__(self, size: int, share: Share, seed: int, purpose: str, num_batches: int | None = None) -> None:
        self.size, self.share, self.seed, self.purpose = size, share, seed, purpose
        self.num_batches = size // share.num_samples if num_batches is None else num_batches
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.num_batches

    def loader(self, dataset: Dataset, loading: Loading) -> DataLoader:
        """Loads a map-style dataset in this order."""
        return loading.loader(
            KeyedDataset(dataset, self.seed),
            batch_sampler=cast(Any, self),
            persistent_workers=loading.num_workers > 0,
            collate_fn=partial(collate, make=loading.collate),
            worker_init_fn=outlive_signals,
        )

    def __iter__(self) -> Iterator[list[Position]]:
        epoch, stride = self.epoch, self.share.num_samples
        order: list[int] = []
        rounds = 0
        for batch in range(self.num_batches):
            if len(order) < stride:
                generator = keyed_generator(self.seed, f"order/{self.purpose}", epoch, rounds)
                order = torch.randperm(self.size, generator=generator).tolist()
                rounds += 1
            taken, order = order[:stride], order[stride:]
            if batch >= self.first:
                yield [(epoch, index) for index in self.share.of(taken)]


class ResumableLoader:
    """Loads one or several datasets in parallel. Each item is a batch, or a tuple with one batch from each dataset.

    Each iteration starts the next epoch. The first iteration after ``load_state_dict`` continues from the loaded state instead.
    """

    def __init__(self, streams: Sequence[tuple[Batches, DataLoader]]) -> None:
        self.batches = [batches for batches, _ in streams]
        assert len({len(batches) for batches in self.batches}) == 1, "streams differ in length"
        self.loaders = [loader for _, loader in streams]
        self.num_done = 0  # batches so far, over all epochs
        self._mid_epoch = False

    def __len__(self) -> int:
        return len(self.batches[0])

    def __iter__(self) -> Iterator[Any]:
        epoch, first = divmod(self.num_done, len(self))
        if not self._mid_epoch and first:  # the last epoch was left early
            epoch, first = epoch + 1, 0
            self.num_done = epoch * len(self)
        self._mid_epoch = False
        for batches in self.batches:
            batches.epoch, batches.first = epoch, first
        for items in zip(*self.loaders, strict=True):
            self.num_done += 1
            yield items if len(items) > 1 else items[0]

    def close(self) -> None:
        """Ends the loader processes, which would otherwise run as long as a traceback refers to their iterators."""
        for loader in self.loaders:
            iterator, loader._iterator = loader._iterator, None
            if iterator is not None and hasattr(iterator, "_shutdown_workers"):
                iterator._shutdown_workers()

    def state_dict(self) -> dict[str, int]:
        """The number of batches so far."""
        return {"num_done": self.num_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from `state` at the next iteration."""
        self.num_done = state["num_done"]
        self._mid_epoch = True


def sequential_loader(dataset: Dataset, batch_size: int, loading: Loading) -> DataLoader:
    """Loads every sample once, in order. The last batch may be shorter. Random augmentation is equal in every pass."""
    return loading.loader(
        dataset if _is_plain(dataset) else Repeatable(dataset), batch_size=batch_size, collate_fn=loading.collate
    )


class Repeatable(Dataset):
    """Seeds the augmentation of each sample with only its index."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return num_samples(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """The sample at an index."""
        with drawing_from(derive_seed(0, "sequential", index)):
            return self.dataset[index]


def num_samples(dataset: Dataset) -> int:
    """Length of a map-style dataset."""
    return len(cast(Sized, dataset))
