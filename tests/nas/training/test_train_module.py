"""Numbers that are not finite: the run stops at once and says where, or leaves the batch out and counts it."""

import json
import math

import pytest
import torch

from nas.io import checkpoint_io

MODULE = """
import nas
import torch
from nas.data import SearchDataModule
from torch import nn
from torch.utils.data import TensorDataset

class Root(nn.Module):
    '''Its value is finite at 0, its gradient is not.'''
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
    def forward(self, x):
        return x + self.scale.sqrt()

class Space(nas.SearchSpace):
    def __init__(self, root: bool = False, norm: bool = True):
        self.root, self.norm = root, norm
    def network(self, stage="search"):
        op = nas.choice("op", {"a": nn.ReLU, "b": nn.Tanh})
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8) if self.norm else nn.Identity(), op, nn.Linear(8, 2)]
        return nn.Sequential(*layers, *([Root()] if self.root else []))

class Data(SearchDataModule):
    '''Some samples are broken, on purpose after the first two, which are tried before a search.'''
    def __init__(self, broken: int = 0, batch_size: int = 10):
        super().__init__(batch_size)
        self.broken = broken
    def train_set(self, augment):
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(100, 4, generator=draw)
        y = (x[:, 0] > 0).long()
        if augment:
            x[50:50 + self.broken] = float("nan")
        return TensorDataset(x, y)
    def test_set(self):
        return self.train_set(False)
"""


@pytest.fixture
def path(config, tmp_path):
    (tmp_path / "breaking.py").write_text(MODULE)

    def write(max_skipped=0, **changes):
        return config(
            {
                "model.space": {"class_path": "breaking.Space", "init_args": changes},
                "model.task.init_args.num_classes": 2,
                "model.max_skipped_batches": max_skipped,
                "data": {"class_path": "breaking.Data", "init_args": {"broken": 1}},
                "trainer.num_images": 0,
            }
        )

    return write


TRUST = ("--trust-module", "breaking")


def weights(folder):
    return checkpoint_io.load(folder / "checkpoints" / "last.ckpt")["state_dict"]


def test_a_loss_that_is_not_finite_stops_the_search_at_its_batch(run_cli, path, tmp_path):
    answer = run_cli("search", "--config", path(norm=False), "--out", "run", *TRUST)
    assert answer.code == 1 and "weight loss is not finite at batch " in answer.complaint
    batch = int(answer.complaint.partition("at batch ")[2].partition(";")[0])
    kept = checkpoint_io.load(tmp_path / "run/checkpoints/last.ckpt")
    assert kept["num_batches_done"] <= batch
    assert all(bool(torch.isfinite(value).all()) for value in kept["state_dict"].values())


def test_a_gradient_that_is_not_finite_names_its_parameter(run_cli, path, tmp_path):
    answer = run_cli("search", "--config", path(root=True), "--data.init_args.broken", "0", "--out", "run", *TRUST)
    assert answer.code == 1
    assert answer.complaint.endswith(
        "gradient of supernet.network.4.scale is not finite at batch 0; the last checkpoint is kept"
    )
    assert weights(tmp_path / "run")["supernet.network.4.scale"] == 0


@pytest.mark.parametrize("norm", [True, False])
def test_skipped_batches_leave_no_trace_and_are_counted(run_cli, path, tmp_path, norm):
    answer = run_cli("search", "--config", path(max_skipped=9, norm=norm), "--out", "run", "--json", *TRUST)
    assert answer.code == 0 and answer.result["skipped_batches"] == 3  # one broken sample in each of three epochs
    assert all(bool(torch.isfinite(value).all()) for value in weights(tmp_path / "run").values())
    header, *lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [float(row["skipped_batches"]) for row in rows] == [1, 2, 3]
    losses = [float(row[key]) for row in rows for key in ("weight/loss", "arch/loss") if row[key]]
    assert len(losses) == 5 and all(map(math.isfinite, losses))  # alpha rests in the first epoch


def test_skipping_goes_on_exactly_and_ends_at_its_limit(run_cli, path, tmp_path):
    file = path(max_skipped=2)
    answer = run_cli("search", "--config", file, "--out", "run", *TRUST)
    assert answer.code == 1 and "after 2 skipped batches; the last checkpoint is kept" in answer.complaint
    again = run_cli("search", "--resume", "run", *TRUST)  # the count is kept, so it ends at the same batch
    assert again.code == 1 and again.complaint == answer.complaint


def test_a_weight_that_is_not_finite_is_not_saved(run_cli, path, tmp_path, monkeypatch):
    from nas.training.search_module import SearchModule

    finish = SearchModule.finish_batch

    def overflowing(self, **watched):
        finish(self, **watched)
        if self.num_batches_done == 5:  # the last of its epoch
            next(self.supernet.network.parameters()).data.fill_(math.inf)

    monkeypatch.setattr(SearchModule, "finish_batch", overflowing)
    answer = run_cli("search", "--config", path(), "--data.init_args.broken", "0", "--out", "run", *TRUST)
    assert answer.code == 1 and "supernet.network.0.weight is not finite at batch 5" in answer.complaint
    assert checkpoint_io.load(tmp_path / "run/checkpoints/last.ckpt")["num_batches_done"] == 0


def test_retraining_skips_too(run_cli, path, tmp_path):
    file = path(max_skipped=9)
    assert run_cli("search", "--config", file, "--out", "run", *TRUST).code == 0
    answer = run_cli("retrain", "--run", "run", *TRUST)
    assert answer.code == 1 and "train loss is not finite" in answer.complaint
    words = ("--genotype", "run/genotype.json", "--config", file, "--retrain.max_skipped_batches", "5")
    answer = run_cli("retrain", *words, "--out", "skipping", "--json", *TRUST)
    assert answer.code == 0 and answer.result["skipped_batches"] == 2
    assert json.loads((tmp_path / "skipping/summary.json").read_text())["skipped_batches"] == 2
