import json
from functools import partial

import pytest

from nas.relaxations import GumbelSoftmax


@pytest.fixture
def bench_step(load_file):
    return load_file("scripts/bench_step.py")


def test_a_soft_step_does_and_keeps_little_of_what_a_plain_one_does(bench_step):
    bench = bench_step.Bench()
    soft = bench_step.count(partial(bench.loss, bench.soft, GumbelSoftmax()), bench.soft)
    plain = bench_step.count(partial(bench.loss, bench.plain, GumbelSoftmax()), bench.plain, bench_step.plain_torch)
    # what sum(w * op(x)) takes in other implementations: 1220 operations, 2.52 GB, 204 MB
    assert plain["operations"] == pytest.approx(1220, rel=0.05)
    assert plain["bytes"] == pytest.approx(2.52e9, rel=0.15)
    assert plain["kept"] == pytest.approx(204e6, rel=0.05)
    assert soft["operations"] <= 0.65 * plain["operations"]
    assert soft["bytes"] <= 0.55 * plain["bytes"]
    assert soft["kept"] <= 0.5 * plain["kept"]
    assert bench.difference() <= 1e-5


def test_prints_a_table_and_json(bench_step, capsys, monkeypatch):
    monkeypatch.setattr(bench_step, "pin", lambda threads: None)
    monkeypatch.setattr(bench_step, "NUM_PATHS", 1)
    monkeypatch.setattr(bench_step, "BATCH", 2)
    assert bench_step.main(["--rounds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    figures = [(row["ours"], row["figure"]) for row in result["rows"]]
    assert figures == [
        *[("soft", figure) for figure in ("time", "operations", "bytes", "kept")],
        *[("sampled", figure) for figure in ("time", "operations", "bytes", "kept")],
        ("grown, K = 16", "time"),
        ("soft", "largest difference"),
    ]
    assert result["threads"] and all(row["of ours"] > 0 for row in result["rows"])
    assert bench_step.main(["--rounds", "1"]) == 0
    assert "| soft | plain | kept |" in capsys.readouterr().out
