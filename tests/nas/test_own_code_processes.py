"""Searches in training code of the user that runs in two processes: both find the same, on different parts of the data."""

import importlib
import json
import os
import socket
import sys
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import nas
from nas.lightning import SearchCallback

MODULE = """
from functools import partial
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
import nas


class Net(nn.Sequential):
    def __init__(self):
        convs = {f"kernel_{k}": partial(nn.Conv1d, 1, 4, k, padding=k // 2) for k in (1, 3, 7)}
        conv = nas.choice("conv", convs)
        super().__init__(conv, nn.BatchNorm1d(4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()
        self.seen = []

    def training_step(self, batch):
        self.seen.append(batch[1].tolist())
        return F.cross_entropy(self.net(batch[0]), batch[1] % 3)

    def validation_step(self, batch):
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1] % 3), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
NUM_TRAIN, NUM_ARCH, SIZE, EPOCHS = 64, 48, 8, 3
STEPS, ARCH_STEPS = NUM_TRAIN // SIZE // 2, NUM_ARCH // SIZE // 2  # of a pass over the samples, in each process


def samples(number):
    """The target is the number of the sample, and so tells which samples a process has seen."""
    number = torch.arange(number)
    x = torch.randn(len(number), 1, 16, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x + (number % 3 - 1)[:, None, None], number)


def plain(named):
    return {name: tensor.tolist() for name, tensor in named}


def report(searcher, network, arch, rank):
    """What a process tells the test."""
    said = {
        "alpha": searcher.supernet.alpha.tolist(),
        "choices": dict(searcher.genotype.choices),
        "tables": searcher.costs.state(),
        "row": searcher.row,
        "weights": plain(network.named_parameters()),
        "buffers": plain(network.named_buffers()),
        "arch": arch,
    }
    Path(f"{rank}.json").write_text(json.dumps(said))


def fit(data):
    """A fit of a Trainer, which starts the second process itself."""
    own = importlib.import_module("own_processes").Module()
    arch = DataLoader(samples(NUM_ARCH), SIZE, shuffle=data == "arch_data")
    options = {"arch_data": arch} if data == "arch_data" else {}
    search = SearchCallback(out="run", limits={"latency_ms": 1e3}, seed=1, **options)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[search],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(own, DataLoader(samples(NUM_TRAIN), SIZE, shuffle=True), arch if data == "val" else None)
    # alpha's step comes before each step of the weights; the batches that recalibrate the batch norm are the last
    report(search.searcher, search.network, own.seen[: 2 * EPOCHS * STEPS : 2], trainer.global_rank)


def loop(rank, port):
    """A loop under DistributedDataParallel; the loss of alpha calls the network and its wrapper in turn."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    net = importlib.import_module("own_processes").Net()
    searcher = nas.Searcher(net, num_steps=EPOCHS * STEPS, limits={"latency_ms": 1e3}, out="run", log_every=1)
    wrapped = DistributedDataParallel(net)
    with pytest.raises(ValueError, match="the network inside DistributedDataParallel"):
        nas.Searcher(wrapped, num_steps=1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    arch, train = (samples(number)[rank::2] for number in (NUM_ARCH, NUM_TRAIN))
    seen = []
    for step in range(EPOCHS * STEPS):
        place = torch.arange(step * SIZE, (step + 1) * SIZE)
        x, y = (part[place % len(part)] for part in arch)
        seen.append(y.tolist())
        searcher.arch_step(lambda called, x, y: F.cross_entropy(called(x), y % 3), (net, wrapped)[step % 2], x, y)
        x, y = (part[place % len(part)] for part in train)
        with searcher.sampled():
            loss = F.cross_entropy(wrapped(x), y % 3)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    report(searcher, searcher.finish(), seen, rank)
    dist.destroy_process_group()


@pytest.mark.parametrize("way", ["val", "arch_data", "loop"])
def test_two_processes_find_the_same_on_different_parts_of_the_data(tmp_path, monkeypatch, in_children, way):
    (tmp_path / "own_processes.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(sys, "argv", [__file__, way])  # by which Lightning starts the second process of a fit
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    processes = [partial(loop, rank, port) for rank in range(2)] if way == "loop" else [partial(fit, way)]
    assert not any(in_children(*processes))
    first, second = (json.loads(Path(f"{rank}.json").read_text()) for rank in range(2))
    parts = [{number for batch in said.pop("arch")[:ARCH_STEPS] for number in batch} for said in (first, second)]
    if way == "loop":  # each process of DistributedDataParallel has batch norms of its own; the first writes
        second["buffers"] = first["buffers"]
    assert first == second and any(first["alpha"][0])
    assert [len(part) for part in parts] == [NUM_ARCH // 2] * 2 and parts[0] | parts[1] == set(range(NUM_ARCH))
    rows = Path("run/metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + (EPOCHS * STEPS if way == "loop" else EPOCHS)  # of one process
    assert nas.Run("run").summary["genotype"] == first["choices"]
    network = nas.load("run", trust_modules=["own_processes"])
    assert plain(network.state_dict().items()) == {**first["weights"], **first["buffers"]}


if __name__ == "__main__":
    fit(sys.argv[1])
