"""A trained network made smaller in one command, and the same call in Python."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nas

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
    x = torch.arange(100).view(50, 2) % 5
    return (x, x[:, 0] % 2), (x, x[:, 0] % 2)


def one():
    return [1]
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
    assert counted(small) <= 0.4 * MACS
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


def test_the_command_goes_on_with_the_stages_that_are_missing(folder, run_cli):
    words = (*WORDS, "--limit", "macs=0.5", "--out", "run", "--json")
    before = run_cli(*words).result
    weights = {path: Path(path).read_bytes() for path in ("run/genotype.json", "run/export/model.safetensors")}
    for name in ("retrain", "export"):
        shutil.rmtree(Path("run") / name)
    Path("run/compression.json").unlink()
    after = run_cli("compress", "--run", "run", "--trust-module", "own_net", "--json").result
    times = [figures.pop("latency_ms") for result in (before, after) for figures in (result["before"], result["after"])]
    assert min(times) > 0 and before == after
    assert all(Path(path).read_bytes() == content for path, content in weights.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", "macs=0"), "'macs=0' is not COST=VALUE with a value above 0"),
        (("--limit", "macs=0.01"), "macs"),
        (("--limit", "macs=0.5", "--weights", "none.pt"), "none.pt"),
        (("--limit", "macs=0.5", "--data", "own_net:one"), r"one must return \(training set, test set\), got list"),
        (("--limit", "macs=0.5", "--model", "own_net:nothing"), "nothing"),
        ((), "--model needs --data and --limit"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, message, folder, run_cli):
    answer = run_cli(*WORDS, *words, "--out", "run")
    assert answer.code == 2 and re.search(message, answer.err.splitlines()[-1]), answer.err
    assert not Path("run").exists()
