"""The batches that train alpha, in an order that a resumed search repeats."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from lightning_fabric.utilities.data import _set_sampler_epoch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset

from nas.io.rng import derive_seed, keyed_generator, seed_global_generators, untouched_rng


class ArchBatches:
    """An endless stream of the batches of a loader. The order of a pass depends only on the seed and the number of the pass.

    Args:
        loader: Any iterable of batches, with a length if the search is resumed.
        seed: Seed of the order.
        num_done: Number of batches to skip, of a search that goes on.
    """

    def __init__(self, loader: Any, seed: int, num_done: int = 0) -> None:
        if isinstance(loader, DataLoader) and loader.persistent_workers:
            # its only iterator belongs to the validation
            loader = copy.copy(loader)
            loader._iterator = None
        self.loader = loader
        self.seed = seed
        self.num_done = num_done
        self._stream: Iterator[Any] | None = None

    def __next__(self) -> Any:
        """The next batch; raises ValueError if the loader has none."""
        if self._stream is None:
            number, first = divmod(self.num_done, len(self.loader)) if self.num_done else (0, 0)
            self._stream = self._passes(number, first)
        batch = next(self._stream)
        self.num_done += 1
        return batch

    def _passes(self, number: int, first: int) -> Iterator[Any]:
        while True:
            with untouched_rng():  # a loader draws its order when its iterator is made
                seed_global_generators(derive_seed(self.seed, "arch data", number))
                _set_sampler_epoch(self.loader, number)
                batches = iter(self.loader)
            empty = True
            for batch in islice(batches, first, None):
                empty = False
                yield batch
            if empty and not first:
                raise ValueError("arch_data has no batches, or cannot be iterated again")
            number, first = number + 1, 0


def split_loader(loader: DataLoader, arch_share: float = 0.5, *, seed: int = 0) -> tuple[DataLoader, DataLoader]:
    """Splits the samples of a training loader at random: one loader trains the weights, the other one alpha.

    Args:
        loader: A loader of a map-style dataset with the usual samplers, shuffled or not.
        arch_share: Share of the samples for alpha, between 0 and 1.
        seed: Seed of the split.

    Raises:
        ValueError: The loader has a sampler of its own, which would still yield all samples.
    """
    if not 0.0 < arch_share < 1.0:
        raise ValueError(f"arch_share must lie between 0 and 1, got {arch_share}")
    if type(loader.sampler) not in (RandomSampler, SequentialSampler) or loader.batch_size is None:
        reason = "a batch sampler of its own" if loader.batch_size is None else f"a {type(loader.sampler).__name__}"
        raise ValueError(f"split_loader cannot split a loader with {reason}; split its dataset, and make two loaders")
    order = torch.randperm(len(loader.dataset), generator=keyed_generator(seed, "split")).tolist()  # type: ignore[arg-type]
    num_arch = round(arch_share * len(order))
    halves = (sorted(order[num_arch:]), sorted(order[:num_arch]))
    first, second = (
        DataLoader(
            Subset(loader.dataset, half),
            batch_size=loader.batch_size,
            shuffle=type(loader.sampler) is RandomSampler,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            drop_last=loader.drop_last,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            persistent_workers=loader.persistent_workers,
            prefetch_factor=loader.prefetch_factor,
        )
        for half in halves
    )
    return first, second
