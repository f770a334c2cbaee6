"""What samples draw, how they become batches, and hooks of data modules."""

import random

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from nas.data import SearchDataModule


class Noisy(SearchDataModule):
    """Draws from numpy's, Python's and torch's global generators."""

    def train_set(self, augment):
        return Rows(40, lambda i: (torch.tensor([np.random.rand(), random.random(), torch.rand(()).item()]), i % 4))

    def test_set(self):
        return self.train_set(False)


class Rows(torch.utils.data.Dataset):
    def __init__(self, number, row):
        self.number, self.row = number, row

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return self.row(index)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_samples_draw_is_a_function_of_seed_epoch_and_index(num_workers):
    def inputs(seed):
        np.random.seed()
        random.seed()
        loader = Noisy(batch_size=8, num_workers=num_workers).retrain_loader(seed)
        epochs = torch.stack([torch.cat([x for x, _ in loader]) for _ in range(2)])
        loader.close()
        return epochs

    first, again, other = inputs(1), inputs(1), inputs(2)
    assert torch.equal(first, again)
    assert all(len(column.unique()) == 80 for column in first.reshape(-1, 3).T)  # every sample of both epochs its own
    assert not bool((first == other).any())


def test_sets_in_order_draw_the_same_each_time():
    data = Noisy(batch_size=8)
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    passes = [torch.cat([x for x, _ in data.arch_loader()]) for _ in range(2)]
    assert torch.equal(*passes) and (np.random.get_state()[1] == state).all()


class Ragged(SearchDataModule):
    def __init__(self, **loading):
        super().__init__(**loading)
        self.collate_fn = lambda samples: (
            pad_sequence([x for x, _ in samples], True),
            torch.tensor([y for _, y in samples]),
        )

    def train_set(self, augment):
        return Rows(40, lambda i: (torch.ones(1 + i % 5, 2), i % 4))

    def test_set(self):
        return self.train_set(False)


def test_a_collate_function_of_ones_own_makes_every_batch():
    data = Ragged(batch_size=8)
    loaders = [data.retrain_loader(0), data.arch_loader(), data.weight_loader(), data.test_dataloader()]
    batches = [data.example(), *(next(iter(loader)) for loader in loaders), next(iter(data.search_loader(0)))[0]]
    assert all(x.dim() == 3 and len(x) == len(y) for x, y in batches)


@pytest.mark.parametrize("name", ["on_after_batch_transfer", "train_dataloader", "val_dataloader"])
def test_hooks_that_would_be_ignored_are_refused(name):
    own = type("Own", (Noisy,), {name: lambda self, *args: None})
    with pytest.raises(ValueError, match=f"Own: the framework never calls {name};"):
        own()


def test_setup_comes_before_the_sets_are_asked_for():
    class SetUp(Noisy):
        def setup(self, stage):
            self.stages = [*getattr(self, "stages", []), stage]

        def train_set(self, augment):
            assert self.stages == ["fit"]
            return super().train_set(augment)

    data = SetUp(batch_size=8)
    data.example(), data.retrain_loader(0), data.test_dataloader()
    assert data.stages == ["fit"]
