import csv
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def pareto(load_file):
    return load_file("scripts/pareto.py")


@pytest.mark.slow
def test_it_keeps_each_limit_and_goes_on_where_it_stopped(pareto, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = {"num_layers": 2, "channels": 4, "dilations": [1, 8], "kernel_sizes": [3, 5]}
    path = config(
        {
            "model.space": {"class_path": "search_spaces.dilation.DilationNet1d", "init_args": arguments},
            "trainer.max_epochs": 2,
            "retrain.trainer": {"max_epochs": 1},
        }
    )
    words = ["--config", str(path), "--num-limits", "2", "--num-random", "2", "--seeds", "2", "--out", "out"]
    assert pareto.main(words) == 0
    rows = list(csv.DictReader(Path("out/pareto.csv").read_text().splitlines()))
    assert [row["kind"] for row in rows] == ["search"] * 4 + ["random"] * 2
    assert all(float(row["cost"]) <= float(row["limit"]) for row in rows[:4])
    assert Path("out/pareto.md").read_text() in capsys.readouterr().out
    assert Path("out/pareto.png").stat().st_size > 1000
    before = {p: p.stat().st_mtime_ns for p in Path("out").rglob("*.ckpt")}
    assert pareto.main(words) == 0
    assert {p: p.stat().st_mtime_ns for p in Path("out").rglob("*.ckpt")} == before


def test_limits_reach_from_a_step_above_the_cheapest_to_the_dearest(pareto):
    assert pareto.limits_between(10, 20, 4) == [12.5, 15, 17.5, 20]
