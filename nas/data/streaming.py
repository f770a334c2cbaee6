"""Data that comes as a stream: shards, a database, a generator. Nobody knows how many samples there are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from nas.data.base import SearchDataModule
from nas.data.loader import Loading, ResumableLoader, drawing_from, outlive_signals
from nas.io.rng import derive_seed, keyed_generator

Half = Literal["weight", "arch"]


class StreamingDataModule(SearchDataModule):
    """Training samples of unknown number, one after the other; an epoch is so many batches.

    The halves are streams of their own, made of different shards for example. Samples are shuffled through a buffer. Every process and
    loader worker iterates over the whole stream and keeps the batches that are its own; so that it need not decode the others, a sample may
    be a function without arguments that returns it. Going on in the middle of an epoch iterates up to there again.

    Args:
        num_batches: Batches of an epoch, and at most so many of each half judge the derived network.
        batch_size: Samples a batch (and process).
        shuffle_size: Samples in the buffer from which the next one is drawn; 1: the stream's own order.
        num_workers: Loader processes; 0 loads in the main one.
        pin_memory: Page-locked batches, for faster copies to a GPU.
        prefetch_factor: Batches that each loader process keeps ready.
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
        if num_batches < 1:
            raise ValueError(f"num_batches must be at least 1, got {num_batches}")
        if shuffle_size < 1:
            raise ValueError(f"shuffle_size must be at least 1, got {shuffle_size}")
        self.num_batches = num_batches
        self.shuffle_size = shuffle_size

    @abstractmethod
    def stream(self, half: Half, augment: bool) -> Iterable[Any]:
        """The (input, target) samples of one half of the training set, from the first on, at every iteration.

        Random augmentation draws from torch's or Python's generators. Where it has a method ``set_epoch``, that hears the epoch before, and
        the order may depend on it.

        Args:
            half: Which one; they share no sample.
            augment: Whether random augmentation is wanted.
        """

    def train_set(self, augment: bool) -> Dataset:
        """Both halves in turn."""
        return _Turns([self.stream("weight", augment), self.stream("arch", augment)])

    def search_loader(self, seed: int, *, rank: int = 0, world_size: int = 1) -> ResumableLoader:
        """Pairs of batches (weight half, arch half)."""
        halves: tuple[Half, Half] = ("weight", "arch")
        streams = [self._batches(self.stream(half, True), seed, half, rank, world_size) for half in halves]
        return ResumableLoader([(batches, batches.loader(self.loading)) for batches in streams])

    def retrain_loader(self, seed: int, *, rank: int = 0, world_size: int = 1) -> ResumableLoader:
        """Batches of both halves, augmented."""
        batches = self._batches(self.train_set(True), seed, "retrain", rank, world_size)
        return ResumableLoader([(batches, batches.loader(self.loading))])

    def fold_loaders(self, seed: int, fold: int, num_folds: int) -> tuple[ResumableLoader, DataLoader]:
        """Refused: a stream cannot be cut into folds.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{type(self).__name__}: a stream cannot be cut into folds")

    def weight_loader(self) -> DataLoader:
        """The first batches of the weight half in order, not augmented."""
        return self._first("weight")

    def arch_loader(self) -> DataLoader:
        """The first batches of the arch half in order, not augmented."""
        return self._first("arch")

    def example(self) -> Any:
        """One collated training batch of two samples, for shapes and counts."""
        samples = [_decoded(sample) for sample in islice(self.stream("weight", False), 2)]
        if not samples:
            raise ValueError(f"{type(self).__name__}: the weight half's stream is empty")
        batch = default_collate(samples)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(f"{type(self).__name__}: a training sample must be (input, target)")
        return batch

    def _batches(self, stream: Any, seed: int, purpose: str, rank: int, world_size: int) -> StreamBatches:
        return StreamBatches(
            stream, self.num_batches, self.batch_size, self.shuffle_size, seed, purpose, rank, world_size
        )

    def _first(self, half: Half) -> DataLoader:
        first = _First(self.stream(half, False), self.num_batches * self.batch_size)
        return self.loading._replace(num_workers=0).loader(first, batch_size=self.batch_size)


class StreamBatches(IterableDataset):
    """Batches of a stream that is repeated as often as an epoch needs; its order is a pure function of (seed, epoch)."""

    def __init__(
        self,
        stream: Iterable[Any],
        num_batches: int,
        batch_size: int,
        shuffle_size: int,
        seed: int,
        purpose: str,
        rank: int,
        world_size: int,
    ) -> None:
        self.stream, self.num_batches, self.batch_size = stream, num_batches, batch_size
        self.shuffle_size, self.seed, self.purpose = shuffle_size, seed, purpose
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.num_batches

    def loader(self, loading: Loading) -> DataLoader:
        """Loads itself; its workers begin anew each epoch, since they hold a copy."""
        return loading.loader(self, batch_size=None, worker_init_fn=outlive_signals)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        num_workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        samples = self._shuffled()
        for batch in range(self.num_batches):
            taken = list(islice(samples, self.batch_size * self.world_size))
            if batch >= self.first and (batch - self.first) % num_workers == number:
                mine = taken[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
                yield default_collate([self._decoded(position, sample) for position, sample in mine])

    def _decoded(self, position: int, sample: Any) -> Any:
        with drawing_from(derive_seed(self.seed, f"decode/{self.purpose}", self.epoch, position)):
            return _decoded(sample)

    def _shuffled(self) -> Iterator[tuple[int, Any]]:
        """(position in the stream, sample), without end."""
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
    """One sample of each stream in turn; a stream that is over is left out."""

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
    """The first samples of a stream, decoded."""

    def __init__(self, stream: Iterable[Any], number: int) -> None:
        self.stream, self.number = stream, number

    def __iter__(self) -> Iterator[Any]:
        return map(_decoded, islice(self.stream, self.number))


def set_epoch(stream: Any, epoch: int) -> None:
    """Tells a stream the epoch, where it wants to know."""
    if hasattr(stream, "set_epoch"):
        stream.set_epoch(epoch)


def _decoded(sample: Any) -> Any:
    return sample() if callable(sample) else sample
