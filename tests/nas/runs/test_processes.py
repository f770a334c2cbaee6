"""Searches of two processes: equal to one process with the whole batch, equal on both, and going on exactly."""

import json
import socket
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml

from nas.io import checkpoint_io
from nas.io.csv_file import read_columns

SPACE = """
import nas
from torch import nn
class Space(nas.SearchSpace):
    def __init__(self, norm: bool = False):
        self.norm = norm
    def network(self, stage="search"):
        def op(name):
            ops = {"linear": lambda: nn.Linear(16, 16), "two": lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))}
            return nas.choice(name, {**ops, "skip": nn.Identity})
        norm = [nn.BatchNorm1d(16)] if self.norm else []
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *norm, op("a"), nn.ReLU(), op("b"), nn.Linear(16, 10))
"""
MODES = {
    "soft": {"model.relaxation": {"class_path": "nas.relaxations.GumbelSoftmax"}},
    "sampled": {"model.relaxation": {"class_path": "nas.relaxations.SampledPath"}},
    "unrolled": {
        "model.bilevel": {"class_path": "nas.bilevel.Unrolled"},
        "model.weight_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
    },
    "scored": {  # the weights rest while alpha learns
        "model.relaxation": {"class_path": "nas.relaxations.SampledPath"},
        "model.alpha": {"class_path": "nas.alpha.Pairwise"},
        "model.bilevel": {"class_path": "nas.bilevel.ScoreFunction"},
        "model.warmup_epochs": 1,
        "model.warmup_paths": {"class_path": "nas.paths.Fair"},
    },
    "own noise": {"model.noise_per_process": True, "model.relaxation": {"class_path": "nas.relaxations.SampledPath"}},
}


@pytest.fixture
def search(config, tmp_path, run_cli):
    """Searches; several processes are others than this one, since Lightning starts the second by the very command."""
    (tmp_path / "spread.py").write_text(SPACE)

    def run(out, changes, devices=2, before=(sys.executable, "-m", "nas"), norm=False):
        path = config(
            {
                "model.space": {"class_path": "spread.Space", "init_args": {"norm": norm}},
                "model.weight_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
                "data": {"class_path": "nas.data.Digits", "init_args": {"batch_size": 100 // devices}},
                "trainer.devices": devices,
                "trainer.num_images": 2,
                **changes,
            },
            name=f"{out}.yaml",
        )
        words = ["search", "--config", str(path), "--out", out, "--json", "--trust-module", "spread"]
        if devices == 1:
            return subprocess.CompletedProcess(words, run_cli(*words).code)
        return subprocess.run([*before, *words], capture_output=True, text=True, check=False, timeout=300)

    return run


def state(folder):
    return checkpoint_io.load(folder / "checkpoints" / "last.ckpt")


def assert_same(a, b):
    assert (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes()
    assert (a / "genotype.json").read_bytes() == (b / "genotype.json").read_bytes() or yaml.safe_load(
        (a / "config.yaml").read_text()
    ) != yaml.safe_load((b / "config.yaml").read_text())
    first, second = state(a), state(b)
    for key, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][key]), key


@pytest.mark.parametrize(
    "name", ["sampled", *(pytest.param(n, marks=pytest.mark.slow) for n in MODES if n != "sampled")]
)
def test_two_processes_search_like_one_with_the_whole_batch(search, tmp_path, name):
    two = search("two", MODES[name])
    assert two.returncode == 0, two.stderr
    assert len(two.stdout.splitlines()) == 1 and json.loads(two.stdout)["stage"] == "search"  # one of them speaks
    # other virtual steps, other draws, and scores in units of their small spread: but equal on both, which every epoch checks
    if name in ("unrolled", "own noise", "scored"):
        return
    assert search("one", MODES[name], devices=1).returncode == 0
    first, second = state(tmp_path / "one")["state_dict"], state(tmp_path / "two")["state_dict"]
    for key, value in first.items():
        if value.is_floating_point() and "metrics" not in key:
            # the sum over a batch of 100 against the mean of two sums over 50, 18 steps long
            assert torch.allclose(value, second[key], rtol=1e-4, atol=1e-5), key
    rows = [(tmp_path / run / "metrics.csv").read_text().splitlines()[-1].split(",") for run in ("one", "two")]
    for a, b in zip(*rows, strict=True):
        assert a == b or float(a) == pytest.approx(float(b), rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_they_go_on_exactly(search, tmp_path):
    assert search("whole", {}, norm=True).returncode == 0
    (tmp_path / "stopping.py").write_text(stopping("os.kill(os.getpid(), signal.SIGTERM)"))
    stopped = search("cut", {}, before=(sys.executable, "stopping.py"), norm=True)
    assert stopped.returncode == 143 and "after saving a checkpoint" in stopped.stderr
    assert state(tmp_path / "cut")["num_batches_done"] == 9
    words = [sys.executable, "-m", "nas", "search", "--resume", "cut", "--trust-module", "spread"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    assert_same(tmp_path / "whole", tmp_path / "cut")


def stopping(how):
    """A command line whose second process does something in its ninth batch, once."""
    return (
        "import os, signal, sys\n"
        "from nas.cli import entry\n"
        "from nas.training.search_module import SearchModule\n"
        "step = SearchModule.training_step\n"
        "def stopping(self, *args):\n"
        "    if self.num_batches_done == 8 and self.global_rank == 1 and not os.path.exists('done'):\n"
        "        open('done', 'w').close()\n"
        f"        {how}\n"
        "    return step(self, *args)\n"
        "SearchModule.training_step = stopping\n"
        "entry()\n"
    )


@pytest.mark.slow
def test_torchrun_starts_a_killed_process_anew_and_the_search_is_the_same(search, tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert search("whole", {}, norm=True).returncode == 0
    (tmp_path / "stopping.py").write_text(stopping("os.kill(os.getpid(), signal.SIGKILL)"))
    done = search("cut", {}, before=(*torchrun, "--max-restarts", "2", "stopping.py"), norm=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists()
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_two_machines_search_like_one_with_two_processes(search, tmp_path):
    """Two torchruns that meet at an address, as on two machines; only the first writes."""
    assert search("whole", {}, norm=True).returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1")
    meeting = ("--master-addr", "127.0.0.1", "--master-port", str(port))
    changes = {"trainer.devices": 1, "trainer.num_nodes": 2}
    with ThreadPoolExecutor(2) as pool:
        nodes = [
            pool.submit(search, "cut", changes, 2, (*node, "--node-rank", str(rank), *meeting, "-m", "nas"), True)
            for rank in (0, 1)
        ]
    done = [each.result() for each in nodes]
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert len(done[0].stdout.splitlines()) == 1 and done[1].stdout == ""
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODES if name != "scored"])  # its weights rest at the end
def test_two_processes_end_where_one_process_does_and_do_so_again(search, tmp_path, name):
    """The last losses of both splits, among those of five seeds of one process with the same batch of all processes.

    A norm looks at its own process's half of the batch, so the runs are not equal: two standard deviations of the seeds are allowed.
    """
    changes = {**MODES[name], "trainer.max_epochs": 6}
    for out in ("two", "again"):
        assert search(out, changes, norm=True).returncode == 0
    assert_same(tmp_path / "two", tmp_path / "again")
    for seed in range(3, 8):
        assert search(f"one{seed}", {**changes, "seed_everything": seed}, devices=1, norm=True).returncode == 0
    for column in ("weight/loss", "arch/loss"):
        ones = [read_columns(tmp_path / f"one{seed}/metrics.csv")[-1][1][column] for seed in range(3, 8)]
        two = read_columns(tmp_path / "two/metrics.csv")[-1][1][column]
        assert abs(two - statistics.fmean(ones)) <= 2 * statistics.stdev(ones), (column, two, ones)
