import itertools
import math

import pytest
import torch
from torch.utils.data import TensorDataset

from nas.data import StreamingDataModule
from nas.testing import check_data

MODULE = """
from nas.data import SequentialDigits, StreamingDataModule
class Shards:
    def __init__(self, first, last):
        self.first, self.last, self.epoch = first, last, 0
    def set_epoch(self, epoch):
        self.epoch = epoch
    def __iter__(self):
        images, labels = SequentialDigits().train_set(False).tensors
        indices = list(range(self.first, self.last))
        for i in reversed(indices) if self.epoch % 2 else indices:
            yield lambda i=i: (images[i], labels[i])
class Stream(StreamingDataModule):
    def stream(self, half, augment):
        return Shards(0, 600) if half == "weight" else Shards(600, 1200)
    def test_set(self):
        return SequentialDigits().test_set()
    preprocessing = "none"
"""


class Numbers(StreamingDataModule):
    """Samples with identifying values: the train split from 0, the arch split from 1000; with noise if augmented."""

    def __init__(self, size=40, num_batches=5, batch_size=8, lazy=False, noise=False, **kwargs):
        super().__init__(num_batches, batch_size, **kwargs)
        self.size, self.lazy, self.noise, self.calls = size, lazy, noise, []

    def stream(self, half, augment):
        return Counting(self, 0 if half == "weight" else 1000, augment)

    def test_set(self):
        return TensorDataset(torch.arange(3), torch.arange(3))


class Counting:
    def __init__(self, data, first, augment):
        self.data, self.first, self.augment = data, first, augment

    def __iter__(self):
        for i in range(self.first, self.first + self.data.size):
            noise = float(torch.rand(())) if self.augment and self.data.noise else 0.0
            yield (lambda i=i, noise=noise: self.sample(i, noise)) if self.data.lazy else (i + noise, i)

    def sample(self, i, noise):
        self.data.calls.append(i)
        return i + noise + (float(torch.rand(())) if self.data.noise else 0.0), i


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def seen(loader):
    return [[half[1].tolist() for half in pair] for pair in loader]


def inputs(loader):
    return [[half[0].tolist() for half in pair] for pair in loader]


def test_an_epoch_is_a_shuffled_pass_and_the_halves_keep_apart():
    loader = Numbers().search_loader(seed=1)
    first, second = seen(loader), seen(loader)
    for epoch in (first, second):
        weight, arch = (sorted(flat(pair[i] for pair in epoch)) for i in (0, 1))
        # a buffer larger than the stream holds later passes too, so a pass is not exactly a permutation
        assert set(weight) <= set(range(40)) and set(arch) <= set(range(1000, 1040)) and len(weight) == 40
    assert first != second != seen(Numbers().search_loader(seed=2))
    assert seen(Numbers().search_loader(seed=1)) == first


def test_a_small_buffer_shuffles_within_its_reach_and_leaves_nothing_out():
    order = flat(pair[0] for pair in seen(Numbers(size=400, num_batches=49, shuffle_size=8).search_loader(seed=0)))
    assert len(order) == len(set(order)) == 392 and order != sorted(order)  # 8 wait in the buffer
    assert all(value <= place + 8 for place, value in enumerate(order))
    plain = Numbers(shuffle_size=1).search_loader(seed=0)
    assert flat(pair[0] for pair in seen(plain)) == list(range(40))


def test_a_short_stream_is_repeated_and_an_empty_one_refused():
    order = flat(pair[0] for pair in seen(Numbers(size=7, shuffle_size=1).search_loader(seed=0)))
    assert order == [i % 7 for i in range(40)]
    with pytest.raises(ValueError, match="the weight stream of the training set is empty"):
        list(Numbers(size=0).search_loader(seed=0))
    with pytest.raises(ValueError, match="the stream of the train split is empty"):
        Numbers(size=0).example()


@pytest.mark.parametrize("lazy", [False, True])
def test_workers_and_resumption_change_nothing_and_draw_from_nobody(lazy):
    def loader(num_workers):
        return Numbers(size=100, lazy=lazy, noise=True, num_workers=num_workers).search_loader(seed=3)

    state = torch.get_rng_state()
    alone = loader(0)
    whole = [inputs(alone), inputs(alone)]
    assert torch.equal(torch.get_rng_state(), state)
    assert any(value != math.floor(value) for value in whole[0][0][0])
    with_workers = loader(2)
    assert [inputs(with_workers), inputs(with_workers)] == whole
    with_workers.close()
    for num_workers in (0, 2):
        resumed = loader(num_workers)
        resumed.load_state_dict({"num_done": 8})  # three batches into the second epoch
        assert inputs(resumed) == whole[1][3:]
        resumed.close()


def test_ranks_share_the_batch_and_decode_only_their_own():
    whole = seen(Numbers(size=200, batch_size=8).search_loader(seed=1))
    data = [Numbers(size=200, batch_size=4, lazy=True) for _ in range(2)]
    ranks = [seen(d.search_loader(seed=1, rank=r, world_size=2)) for r, d in enumerate(data)]
    for i, pair in enumerate(whole):
        assert pair == [ranks[0][i][half] + ranks[1][i][half] for half in (0, 1)]
    assert [len(d.calls) for d in data] == [40, 40]


def test_other_loaders():
    data = Numbers(size=10, batch_size=4, num_batches=2, lazy=True)
    assert [batch[1].tolist() for batch in data.weight_loader()] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert next(iter(data.arch_loader()))[1].tolist() == [1000, 1001, 1002, 1003]
    together = flat(batch[1].tolist() for batch in Numbers(size=9, shuffle_size=1).retrain_loader(0))
    assert together[:18] == [half + i for i in range(9) for half in (0, 1000)]
    assert data.example()[1].tolist() == [0, 1]
    with pytest.raises(ValueError, match="cannot be split into folds"):
        data.fold_loaders(0, 0, 4)
    check_data(Numbers(size=30, noise=True))
    for changes in ({"num_batches": 0}, {"shuffle_size": 0}, {"prefetch_factor": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))} must be at least 1"):
            Numbers(**changes)


def test_a_search_on_a_stream_goes_on_exactly_and_its_find_is_trained(run_cli, config, tmp_path, monkeypatch):
    (tmp_path / "streamed.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    data = {"class_path": "streamed.Stream", "init_args": {"num_batches": 6, "batch_size": 100, "shuffle_size": 50}}
    path = config({"data": data})
    trust = ("--trust-module", "streamed")
    assert run_cli("search", "--config", path, "--out", "whole", *trust).code == 0
    # one epoch more, cut by its number, would anneal differently: stop in the middle by a failing batch instead
    from nas.training.search_module import SearchModule

    step = SearchModule.training_step

    def failing(self, *args):
        if self.num_batches_done == 14:
            raise RuntimeError("the power failed")
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SearchModule, "training_step", failing)
        assert run_cli("search", "--config", path, "--out", "cut", *trust).code == 1
    assert run_cli("search", "--resume", "cut", *trust).code == 0
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "cut/metrics.csv").read_bytes()
    answer = run_cli("retrain", "--run", "cut", *trust)
    assert answer.code == 0, answer.err
    assert run_cli("evaluate", "--run", "cut", *trust).code == 0
