"""bench_convert.py measures both steps of each network."""

import json

import torch


def test_prints_json(load_file, monkeypatch, capsys):
    module = load_file("scripts/bench_convert.py")
    monkeypatch.setattr(module, "pin", lambda threads: None)
    block = module.Block(16, 2)
    small = lambda: (torch.nn.Sequential(torch.nn.Linear(3, 16), block, torch.nn.Linear(16, 2)), torch.randn(2, 5, 3))  # noqa: E731
    monkeypatch.setattr(module, "resnet18", small)
    monkeypatch.setattr(module, "vit", small)
    module.main(["--rounds", "1", "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["choices"] for row in rows] == [4, 4]
    assert all(row["masked / plain"] > 0 for row in rows)


def test_the_transformer_is_one(load_file):
    module = load_file("scripts/bench_convert.py")
    model, x = module.vit()
    order = torch.randperm(65)
    torch.testing.assert_close(model(x[:1, order]), model(x[:1])[:, order], rtol=1e-4, atol=1e-4)  # no positions
