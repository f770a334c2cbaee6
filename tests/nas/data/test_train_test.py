import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from nas.data import TrainTest


@pytest.mark.parametrize("make", [torch.arange, np.arange], ids=["tensors", "arrays"])
def test_pairs_are_all_inputs_and_all_targets(make):
    data = TrainTest(lambda: ((make(8), make(8) * 2), (make(3), make(3))), batch_size=2)
    assert [(int(x), int(y)) for x, y in data.train_set(False)] == [(i, 2 * i) for i in range(8)]
    assert torch.equal(data.test_targets(), torch.arange(3)) and len(data.search_loader(0)) == 2


def test_datasets_are_taken_as_they_are():
    train, test = (TensorDataset(torch.arange(n), torch.arange(n)) for n in (8, 2))
    data = TrainTest(lambda: [train, test])
    assert data.train_set(True) is train and data.test_set() is test


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, r"load must return \(training set, test set\), got NoneType"),
        ((1, 2, 3), r"load must return \(training set, test set\), got tuple of 3"),
        (((torch.zeros(2), torch.zeros(3)), (1, 2)), "load: a set must be a dataset, or .* Size mismatch"),
        (((torch.zeros(2),), (torch.zeros(2),)), "load: a set must be a dataset, or .* not enough values"),
        (((["a"], ["b"]), (["a"], ["b"])), "load: a set must be a dataset, or .*"),
    ],
)
def test_what_is_no_data(made, message):
    def load():
        return made

    with pytest.raises(ValueError, match=message):
        TrainTest(load)
