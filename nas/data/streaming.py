"""Data from streams of unknown length, for example shards, a database or a generator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from nas.data.base import SearchDataModule, check_least
from nas.data.loader import Loading, ResumableLoader, Share, drawing_from, outlive_signals
from nas.io.rng import derive_seed, keyed_generator

Half = Literal["weight", "arch"]


class StreamingDataModule(SearchDataModule):
    """Training samples from streams of unknown length. An epoch has a fixed number of batches.

    Each split is a stream, for example with different shards. A buffer shuffles the samples. Every process and every loader worker iterates
    over the whole stream and keeps its own batches. A sample may be a function without arguments that returns the sample; then only the
    process that uses the sample decodes it. Resuming in the middle of an epoch iterates over the earlier samples again.

    Args:
        num_batches: Number of batches in an epoch. The derived network is evaluated on at most this number of batches of each split.
        batch_size: Number of samples in each batch of each process.
        shuffle_size: Number of samples in the shuffle buffer; 1: the order of the stream.
        num_workers: Number of loader processes; 0: the main process loads the data.
        pin_memory: Use page-locked memory, for faster copies to a GPU.
        prefetch_factor: Number of batches that each loader process loads in advance.
    """

    def __init__(
        self,
        num_batches: int,
        batch_size: int = 64,
        shuffle_size: int = 1000,
        num_workers: int = 0,
        pin_memory: bool = False,
        prefetch_factor: int = 2,
    ) -> None:
        super().__init__(batch_size, num_workers=num_workers, pin_memory=pin_memory, prefetch_factor=prefetch_factor)
        check_least(1, num_batches=num_batches, shuffle_size=shuffle_size)
        self.num_batches = num_batches
        self.shuffle_size = shuffle_size

    @abstractmethod
    def stream(self, half: Half, augment: bool) -> Iterable[Any]:
        """The (input, target) samples of one split of the training set. Every iteration starts at the first sample.

        Random augmentation must use torch's, Python's or numpy's global generators. If the stream has a method ``set_epoch``, it is called
        with the epoch before each iteration, and the order may depend on the epoch.

        Args:
            half: ``"weight"`` for the train split, ``"arch"`` for the arch split. The splits must have no common samples.
            augment: Whether to apply random augmentation.
        """

    def train_set(self, augment: bool) -> Dataset:
        """Alternating samples of both splits."""
        return _Turns([self.stream("weight", augment), self.stream("arch", augment)])

    def search_loader(self, seed: int, *, rank: int = 0, world_size: int = 1) -> ResumableLoader:
        """Pairs of batches (train split, arch split)."""
        halves: tuple[Half, Half] = ("weight", "arch")
        share = Share(self.batch_size, rank, world_size)
        return ResumableLoader([self._batches(self.stream(half, True), share, seed, half) for half in halves])

    def retrain_loader(self, seed: int, *, rank: int = 0, world_size: int = 1) -> ResumableLoader:
        """Batches of both splits, augmented."""
        share = Share(self.batch_size, rank, world_size)
        return ResumableLoader([self._batches(self.train_set(True), share, seed, "retrain")])

    def fold_loaders(self, seed: int, fold: int, num_folds: int) -> tuple[ResumableLoader, DataLoader]:
        """Raises ValueError, because a stream cannot be split into folds."""
        raise ValueError(f"{type(self).__name__}: a stream cannot be split into folds")

    def weight_loader(self) -> DataLoader:
        """The first batches of the train split in order, not augmented."""
        return self._first("weight")

    def arch_loader(self) -> DataLoader:
        """The first batches of the arch split in order, not augmented."""
        return self._first("arch")

    def example(self, size: int = 2) -> Any:
        """One collated training batch of the first samples, for shapes and counts."""
        samples = [_decoded(sample) for sample in islice(self.stream("weight", False), size)]
        if not samples:
            raise ValueError(f"{type(self).__name__}: the stream of the train split is empty")
        return self._checked(default_collate(samples))

    def _batches(self, stream: Any, share: Share, seed: int, purpose: str) -> tuple[StreamBatches, DataLoader]:
        batches = StreamBatches(stream, share, seed, purpose, self.num_batches, self.shuffle_size)
        return batches, batches.loader(self.loading)

    def _first(self, half: Half) -> DataLoader:
        first = _First(self.stream(half, False), self.num_batches * self.batch_size)
        return self.loading._replace(num_workers=0).loader(first, batch_size=self.batch_size)


class StreamBatches(IterableDataset):
    """Batches of a stream, which is repeated until the epoch ends. Their order is a pure function of (seed, epoch)."""

    def __init__(
        self, stream: Iterable[Any], share: Share, seed: int, purpose: str, num_batches: int, shuffle_size: int
    ) -> None:
        self.stream, self.share, self.seed, self.purpose = stream, share, seed, purpose
        self.num_batches, self.shuffle_size = num_batches, shuffle_size
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.num_batches

    def loader(self, loading: Loading) -> DataLoader:
        """A loader of these batches. Its workers restart in each epoch, because each worker has a copy of the stream."""
        return loading.loader(self, batch_size=None, worker_init_fn=outlive_signals)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        num_workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        samples = self._shuffled()
        for batch in range(self.num_batches):
            taken = list(islice(samples, self.share.num_samples))
            if batch >= self.first and (batch - self.first) % num_workers == number:
                yield default_collate([self._decoded(position, sample) for position, sample in self.share.of(taken)])

    def _decoded(self, position: int, sample: Any) -> Any:
        with drawing_from(derive_seed(self.seed, f"decode/{self.purpose}", self.epoch, position)):
            return _decoded(sample)

    def _shuffled(self) -> Iterator[tuple[int, Any]]:
        """Endless shuffled pairs (position in the stream, sample)."""
        generator = keyed_generator(self.seed, f"order/{self.purpose}", self.epoch)
        samples = self._repeated()
        buffer = list(islice(samples, self.shuffle_size))
        for sample in samples:
            place = int(torch.randint(len(buffer), (1,), generator=generator))
            yield buffer[place]
            buffer[place] = sample

    def _repeated(self) -> Iterator[tuple[int, Any]]:
        position = 0
        while True:
            set_epoch(self.stream, self.epoch)
            samples, before = iter(self.stream), position
            while True:
                with drawing_from(derive_seed(self.seed, f"augment/{self.purpose}", self.epoch, position)):
                    try:
                        sample = next(samples)
                    except StopIteration:
                        break
                yield position, sample
                position += 1
            if position == before:
                raise ValueError(f"the {self.purpose} stream of the training set is empty")


class _Turns(IterableDataset):
    """Alternates between streams until all streams have ended."""

    def __init__(self, streams: Sequence[Iterable[Any]]) -> None:
        self.streams = streams

    def set_epoch(self, epoch: int) -> None:
        for stream in self.streams:
            set_epoch(stream, epoch)

    def __iter__(self) -> Iterator[Any]:
        running = [iter(stream) for stream in self.streams]
        while running:
            for samples in list(running):
                try:
                    yield next(samples)
                except StopIteration:
                    running.remove(samples)


class _First(IterableDataset):
    """The first `number` samples of a stream, decoded."""

    def __init__(self, stream: Iterable[Any], number: int) -> None:
        self.stream, self.number = stream, number

    def __iter__(self) -> Iterator[Any]:
        return map(_decoded, islice(self.stream, self.number))


def set_epoch(stream: Any, epoch: int) -> None:
    """Calls ``set_epoch`` of a stream if it has this method."""
    if hasattr(stream, "set_epoch"):
        stream.set_epoch(epoch)


def _decoded(sample: Any) -> Any:
    return sample() if callable(sample) else sample
