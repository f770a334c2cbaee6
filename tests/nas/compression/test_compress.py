"""A trained network made smaller in one command, and the same call in Python."""

import importlib
import os
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.io.errors import UsageError
from nas.training.retrain_module import RetrainModule
from nas.training.search_module import SearchModule

NET = """
import torch
from sklearn.datasets import load_digits
from torch import nn


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, x):
        return x + torch.relu(self.conv(x))


def build():
    return nn.Sequential(
        nn.Conv1d(1, 16, 3, padding=1), nn.ReLU(), Residual(), nn.Conv1d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 10),
    )


def digits():
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32)[:, None] / 16
    return (x[:600], y[:600]), (x[600:800], y[600:800])


def words():
    return nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 2))


def ids():
    x = torch.arange(200).view(100, 2) % 5
    return (x, x[:, 0] % 2), (x, x[:, 0] % 2)


def one():
    return [1]


def halves():
    return (torch.zeros(4, 1), torch.zeros(2)), (torch.zeros(4, 1), torch.zeros(4))
"""
SHORT = "--model.space.multiple 4 --trainer.max_epochs 2 --epochs 1 --trainer.num_threads 1 --trainer.accelerator cpu".split()
WORDS = ("compress", "--model", "own_net:build", "--weights", "net.pt", "--data", "own_net:digits", *SHORT)
MACS = 64 * 3 * (16 + 2 * 16 * 16) + 16 * 10


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a trained network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_net.py").write_text(NET)
    own = importlib.import_module("own_net")
    torch.manual_seed(0)
    net, ((x, y), _) = own.build(), own.digits()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), torch.as_tensor(y)).backward()
        optimizer.step()
    torch.save(net.state_dict(), "net.pt")
    return tmp_path


def counted(network):
    """The MACs of one sample by the formulas of its layers, and by torch's counter; its first and last width, and the inner one."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 64))
    convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d)]
    macs = sum(64 * 3 * conv.in_channels * conv.out_channels for conv in convs) + 10 * convs[-1].out_channels
    assert macs == counter.get_total_flops() // 2
    return macs


def test_a_share_of_the_macs_in_one_command(folder, run_cli):
    assert MACS == counted(importlib.import_module("own_net").build())
    answer = run_cli(*WORDS, "--limit", "macs=0.4", "--out", "run", "--json")
    assert answer.code == 0, answer.err
    small = nas.load("run", trust_modules=["own_net"])
    assert counted(small) <= 0.4 * MACS and nas.Run("run").summary["target"]["macs"]["max"] == int(0.4 * MACS)
    result = answer.result
    parent = importlib.import_module("own_net").build()
    parent.load_state_dict(torch.load("net.pt", weights_only=True))
    x, y = importlib.import_module("own_net").digits()[1]
    for network, figures in ((parent, result["before"]), (small, result["after"])):
        correct = float((network.eval()(x).argmax(1) == torch.as_tensor(y)).float().mean())
        assert figures["test_accuracy"] == pytest.approx(correct, abs=1e-6)  # a mean in float32
        assert (figures["macs"], figures["params"]) == (counted(network), sum(p.numel() for p in network.parameters()))
        assert figures["latency_ms"] > 0
    convs = {name: layer.out_channels for name, layer in small.named_modules() if isinstance(layer, nn.Conv1d)}
    cuts = {cut["name"]: (cut["kept"], cut["all"]) for cut in result["cuts"]}
    assert cuts["0"] == (convs["0"], 16) and cuts["3"] == (convs["3"], 16)
    assert cuts["2"] == (int("2.conv" in convs), 1)
    page = (folder / "run/report.html").read_text()
    assert f"{result['after']['macs']:,}" in page and f">{convs['0']} of 16<" in page and "original network" in page
    assert all(
        word in page for word in ("block kept" if "2.conv" in convs else "block dropped", "--trust-module own_net")
    )
    assert {"network.py", "model.safetensors", "model.pt2"} <= {path.name for path in (folder / "run/export").iterdir()}
    shown = run_cli(*WORDS, "--limit", "macs=0.4", "--out", "run").out  # nothing is done again
    assert (
        re.search(r"MACs of one sample: 101,536 -> [\d,]+ \(-\d\d\.\d%\)", shown) and "report: run/report.html" in shown
    )
    assert run_cli("report", "--run", "run", "--trust-module", "own_net", "--format", "md").code == 0
    assert f"| 0 | {convs['0']} | 16 |" in (folder / "run/report.md").read_text()


class Killed(Exception):
    pass


def kill(signum=None):
    if signum is None:
        raise Killed
    os.kill(os.getpid(), signum)


def kill_in_batch(patch, module, batch, signum=None):
    """Kills the training in the given batch, by an error or a signal."""
    step = module.training_step

    def stopping(self, *args):
        if self.num_batches_done == batch:
            kill(signum)
        return step(self, *args)

    patch.setattr(module, "training_step", stopping)


@pytest.mark.slow
def test_a_run_killed_in_every_stage_goes_on_to_the_same_result(folder, run_cli, monkeypatch):
    words = (*WORDS, "--limit", "macs=0.5", "--json", "--out")
    whole = run_cli(*words, "whole").result
    again = ("compress", "--run", "cut", "--trust-module", "own_net", "--json")
    with monkeypatch.context() as patch:
        kill_in_batch(patch, SearchModule, 3, signal.SIGTERM)
        stopped = run_cli(*words, "cut")
        hint = "resume with: nas compress --run cut --trust-module own_net"
        assert stopped.code == 143 and stopped.complaint.endswith(hint)
    with monkeypatch.context() as patch:
        kill_in_batch(patch, RetrainModule, 2)
        assert run_cli(*words, "cut").code == 1
    for stage in ("write_compared", "export_run", "write_report"):
        with monkeypatch.context() as patch:
            patch.setattr(f"nas.compression.compress.{stage}", lambda *_, **__: kill())
            assert run_cli(*again).code == 1
    last = run_cli(*again).result
    assert [last.pop(key) for key in ("run", "report", "export")] == ["cut", "cut/report.html", "cut/export"]
    for result in (whole, last):
        assert min(result[key].pop("latency_ms") for key in ("before", "after")) > 0  # times differ
    assert last == {key: value for key, value in whole.items() if key in last}
    for name in ("metrics.csv", "retrain/metrics.csv", "export/model.safetensors"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes(), name
    other = run_cli(*WORDS, "--limit", "macs=0.6", "--out", "cut")
    assert other.code == 2 and "cut holds a run with other settings" in other.complaint


def test_the_same_as_one_python_call(folder, run_cli, monkeypatch):
    own = importlib.import_module("own_net")
    settings = {"model": {"space": {"init_args": {"multiple": 4}}}, "trainer": {"max_epochs": 2, "num_threads": 1}}
    Path("settings.yaml").write_text(yaml.safe_dump(settings))
    options = {"limit": {"macs": 0.5}, "weights": "net.pt", "epochs": 1, "config": "settings.yaml", "out": "run"}
    run = nas.compress(own.build, data=own.digits, **options)
    assert counted(run.network()) <= MACS / 2 and run.summary["target"]["macs"]["max"] == MACS // 2
    with monkeypatch.context() as patch:
        patch.setattr("nas.compression.compress.export_run", lambda *_, **__: kill())  # it is not done again
        assert nas.compress("own_net:build", data="own_net:digits", **options).genotype == run.genotype
    for wrong in (lambda: own.build(), own.build(), nn.Sequential(nn.Linear(1, 1))):
        with pytest.raises(UsageError, match="give a function or class at the top of a module"):
            nas.compress(wrong, data=own.digits, **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--model needs --data and --limit"),
        (("--limit", "macs=0"), "'macs=0' is not COST=VALUE with a value above 0"),
        (("--limit", "flops=0.5"), "limit: unknown cost flops; expected params, macs, activations, latency_ms"),
        (("--limit", "macs=0.01"), "no architecture has macs of at most 1,015; the smallest is [0-9,]+$"),
        (("--limit", "macs=0.5", "--weights", "none.pt"), "none.pt: weights of Sequential: .*No such file"),
        (("--limit", "macs=0.5", "--weights", "own_net.py"), "own_net.py: weights of Sequential: "),
        (("--limit", "macs=0.5", "--model", "own_net:nothing"), "module 'own_net' has no attribute 'nothing'"),
        (
            ("--limit", "macs=0.5", "--model", "own_net:words"),
            "net.pt: weights of Sequential: ",
        ),
        (("--limit", "macs=0.5", "--model", "own_net:one"), "the builder makes no torch.nn.Module but list"),
        (("--limit", "macs=0.5", "--model", "os.getcwd"), "'os.getcwd' is not in a trusted module"),
        (
            ("--limit", "macs=0.5", "--data", "own_net:one"),
            r"one must return \(training set, test set\), got list of 1",
        ),
        (
            ("--limit", "macs=0.5", "--data", "own_net:halves"),
            "halves: a set must be a dataset, or .*: Size mismatch",
        ),
        (
            ("--limit", "macs=0.5", "--data", "own_net:ids"),
            "an input is no tensor of floats but torch.int64; .* --example",
        ),
        (("--limit", "macs=0.5", "--data", "none.npz"), "none.npz: No such file"),
        (("--limit", "macs=0.5", "--config", "none.yaml"), "none.yaml: No such file"),
        (("--limit", "macs=0.5", "--task", "nas.tasks.Nothing"), "has no attribute 'Nothing'"),
        (("--limit", "macs=0.5", "--epochs", "0"), "argument --epochs: must be at least 1, got 0"),
        (("--run", "none"), "argument --run: not allowed with argument --model"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, message, folder, run_cli):
    answer = run_cli(*WORDS, *words, "--out", "run")
    assert answer.code == 2 and re.search(message, answer.complaint), answer.err
    assert not Path("run").exists()


def test_a_run_of_another_kind_is_not_continued(run, run_cli):
    answer = run_cli("compress", "--run", "run")
    assert answer.code == 2 and "run: DilationNet1d is not the space of a trained network" in answer.complaint
    assert not Path("run/retrain").exists()
