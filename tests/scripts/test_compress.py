"""The comparison of methods that make a network smaller: rows, limits and the table, on a tiny network."""

import json
import statistics
import struct
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, 4), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        )
"""
SHORT = ("--parent-epochs", "1", "--epochs", "1", "--search-epochs", "1", "--model", "tiny_net:Net", "--images", "400")


@pytest.fixture
def compress(load_file, tmp_path, monkeypatch):
    """The script in a folder with a few images in the files of Fashion-MNIST, and a tiny network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("tiny_net.py").write_text(NET)
    raw = Path("data/FashionMNIST/raw")
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, number in (("train", 440), ("t10k", 60)):
        images = torch.randint(256, (number, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.arange(number, dtype=torch.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, *images.shape) + images.numpy().tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, number) + labels.numpy().tobytes())
    return load_file("scripts/compress.py")


def macs(network):
    """Counted by torch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 1, 28, 28))
    return counter.get_total_flops() / 2


def test_rows_keep_their_limits_and_are_not_done_again(compress, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "modelopt", None)  # as if it were not installed
    made = []
    fit = compress.fit
    monkeypatch.setattr(
        compress, "fit", lambda net, *args, **kwargs: (made.append((net, kwargs)), fit(net, *args, **kwargs))
    )
    names = "ours,ours+teacher,uniform,uniform+longer,uniform+scratch,fastnas,parent"
    words = ["--parent", "parent.pt", "--out", "rows.jsonl", "--limits", "0.6", *SHORT]
    assert compress.main([*words, "--seeds", "0", "--methods", names]) == 0
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["parent", *names.split(",")[:4], "fastnas", "uniform+scratch"]
    assert "nvidia-modelopt" in rows[5]["missing"] and "accuracy" not in rows[5]
    trained = made[1:]  # the first one is the parent
    whole = macs(made[0][0])
    for row, (net, _) in zip([row for row in rows if "missing" not in row], trained, strict=True):
        assert row["macs"] == pytest.approx(macs(net) / whole, abs=1e-9)
        assert row["macs"] <= row["limit"] == (1.0 if row["method"] == "parent" else 0.6)
        assert row["params"] == sum(p.numel() for p in net.parameters())
        images, labels = compress.load(Path("data"), False)
        with torch.no_grad():
            assert row["accuracy"] == pytest.approx(
                float((net.eval()(images).argmax(1) == labels).float().mean()), abs=1e-6
            )
    assert [kwargs["epochs"] for _, kwargs in trained] == [1, 1, 1, 1, 2, 2]
    assert [kwargs["teacher"] is not None for _, kwargs in trained] == [False, False, True, False, False, False]

    Path("rows.jsonl").write_text(
        Path("rows.jsonl").read_text() + '{"method": "ours", "li'
    )  # the last line was cut off
    made.clear()
    made.clear()
    assert compress.main([*words, "--seeds", "0", "--methods", "uniform,ours"]) == 0
    assert [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()] == rows and not made
    assert "not installed: nvidia-modelopt" in capsys.readouterr().out


def test_the_table_pairs_the_seeds(compress):
    scores = {"ours": (0.90, 0.92, 0.91), "uniform": (0.89, 0.90, 0.91)}
    row = {"limit": 0.5, "before": 0.1, "macs": 0.5, "params": 9, "seconds": 1.0, "lines": 3}
    rows = {
        (name, 0.5, seed): {**row, "method": name, "seed": seed, "accuracy": score}
        for name, values in scores.items()
        for seed, score in enumerate(values)
    }
    gaps = [own - other for own, other in zip(*scores.values(), strict=True)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    line = next(line for line in compress.table(rows).splitlines() if "| uniform | 3 |" in line)
    assert f"| 0.9000 ± 0.0100 | {statistics.fmean(gaps):+.4f} ± {error:.4f} |" in line
    assert "| ours | 3 | 0.9100 ± 0.0100 |  |" in compress.table(rows)


def test_the_same_seed_gives_all_methods_the_same_batches(compress):
    samples = compress.load(Path("data"), True)
    first, second, other = (
        torch.cat([batch.images.flatten() for batch in sys.modules["compress_training"].batches(samples, seed)])
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_torch_pruning_keeps_the_limit(compress):
    pytest.importorskip("torch_pruning")
    words = ["--parent", "parent.pt", "--out", "rows.jsonl", "--seeds", "0", "--limits", "0.4", *SHORT]
    assert compress.main([*words, "--methods", "magnitude,taylor"]) == 0
    rows = compress.read_rows(Path("rows.jsonl")).values()
    assert len(rows) == 2 and all(0.5 * row["limit"] < row["macs"] <= row["limit"] for row in rows)


def test_own_strategies_keep_the_limit(compress, capsys, monkeypatch):
    words = ["--parent", "parent.pt", "--out", "rows.jsonl", "--seeds", "0", "--limits", "0.556", *SHORT]
    names = "soft,inner-step,block-scores,evolution,random"
    assert compress.main([*words, "--methods", names]) == 0
    rows = compress.read_rows(Path("rows.jsonl")).values()
    assert len(rows) == 5 and all(row["macs"] <= row["limit"] for row in rows)
    assert next(row["macs"] for row in rows if row["method"] == "random") >= 0.9 * 0.556
    assert "hard: false" in Path("rows/soft_0.556_0/config.yaml").read_text()
    capsys.readouterr()
    monkeypatch.setattr(compress, "accuracy", lambda net, samples: net[0].out_channels)
    assert compress.main([*words, "--ranks", "2"]) == 0
    taus = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(taus) == 4 and {*map(abs, taus)} == {1.0}  # two architectures, no ties


def test_an_unknown_method_is_named(compress, capsys):
    with pytest.raises(SystemExit):
        compress.main(["--parent", "p.pt", "--out", "r.jsonl", "--methods", "ours+magic"])
    assert "'ours+magic' is none of ours, fastnas" in capsys.readouterr().err
