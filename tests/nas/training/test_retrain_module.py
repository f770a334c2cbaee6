import copy
from typing import Any, cast

import pytest
import torch
from torch import nn

from nas import RetrainModule
from nas.runs import trainer
from nas.runs.folder import RunFolder
from nas.tasks import Classification


def train(num_micro_batches, tmp_path, network=None):
    g = torch.Generator().manual_seed(0)
    data = [(torch.randn(10, 3, generator=g), torch.randint(0, 2, (10,), generator=g)) for _ in range(4)]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)) if network is None else network
    module = RetrainModule(network, Classification(2), num_micro_batches=num_micro_batches)
    loader = cast(Any, torch.utils.data.DataLoader(data, batch_size=None))
    folder = RunFolder(tmp_path / str(num_micro_batches))
    options = trainer.TrainerOptions(max_epochs=2, accelerator="cpu")
    trainer.train(trainer.make_trainer(options), options, module, loader, folder, None, "again")
    return network, folder.metrics_csv.read_text().splitlines()


def test_micro_batches_train_as_whole_ones_do(tmp_path):
    """10 samples in 4 uneven parts; float32's rounding, which Adam's first steps enlarge where a gradient is small."""
    (whole, rows), (parts, rows_of_parts) = train(1, tmp_path), train(4, tmp_path)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert rows[0] == rows_of_parts[0] and len(rows) == 3
    for one, other in zip(rows[1:], rows_of_parts[1:], strict=True):
        assert [float(x) for x in one.split(",")] == pytest.approx([float(x) for x in other.split(",")], rel=1e-5)


def test_a_batch_that_is_too_small_is_named(tmp_path):
    with pytest.raises(ValueError, match="a batch of 10 samples cannot be split into 11"):
        train(11, tmp_path)
    with pytest.raises(ValueError, match="num_micro_batches must be at least 1"):
        train(0, tmp_path)


def test_a_network_in_eval_mode_is_trained_in_train_mode(tmp_path):
    """As ``from_pretrained`` of transformers gives it: dropout and batch norm must be on."""
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
    trained = [train(1, tmp_path / mode, getattr(copy.deepcopy(made), mode)())[0] for mode in ("train", "eval")]
    for one, other in zip(*(network.state_dict().values() for network in trained), strict=True):
        assert torch.equal(one, other)
    assert trained[0][1].num_batches_tracked == 8
