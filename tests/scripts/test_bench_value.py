"""The contestants of bench_value.py have the same search space and, with one-hot op weights and equal weights, the same outputs."""

import json

import pytest
import torch


@pytest.fixture
def bench_value(load_file, monkeypatch):
    module = load_file("scripts/bench_value.py")
    monkeypatch.setattr(module, "pin", lambda threads: None)
    return module


def test_contestants_have_the_same_networks(bench_value):
    values, by_hand, blocks = (
        bench_value.Search(getattr(bench_value, f), 2) for f in ("values", "convolutions", "blocks")
    )
    assert values.supernet.num_architectures == by_hand.supernet.num_architectures == blocks.supernet.num_architectures
    small = values.supernet.derive(
        {f"{name}{i}": label for i in range(4) for name, label in (("kernel", "5"), ("dilation", "2"))}
    )
    x = torch.randn(3, 2, 16)
    for search, name in ((by_hand, "conv"), (blocks, "block")):
        network = search.supernet.derive({f"{name}{i}": "5x2" for i in range(4)})
        network.load_state_dict(small.state_dict())
        assert torch.equal(network(x), small(x))


def test_prints_json(bench_value, capsys):
    bench_value.main(["--channels", "2", "--length", "8", "--rounds", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["form"] for row in rows] == ["values", "convolutions", "blocks"]
    assert rows[0]["memory of values"] == rows[0]["time of values"] == 1
    assert rows[0]["parameters"] < rows[1]["parameters"] < rows[2]["parameters"]
