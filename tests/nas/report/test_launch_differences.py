"""Two launches: searches of equal seeds are paired, and the test agrees with scipy's own formulas."""

import json
import math
import shutil
from pathlib import Path

import pytest
from made_up_launch import write_launch
from scipy import stats

from nas.report.launch_differences import launch_differences, mean_rows

METRICS = {"a": {0: 0.90, 1: 0.94, 2: 0.91, 5: 0.1}, "b": {0: 0.93, 1: 0.95, 2: 0.96, 7: 0.2}}
"""Test metric of each seed in two launches."""


def test_the_mean_difference_is_that_of_a_paired_test():
    pairs = [(0.90, 0.93), (0.94, 0.95), (0.91, 0.96)]
    rows = [{"settings": {}, "seed": i, "a": a, "b": b} for i, (a, b) in enumerate(pairs)]
    (row,) = mean_rows(rows)
    a, b = zip(*pairs, strict=True)
    t = stats.ttest_rel(b, a)
    assert row["num"] == 3 and row["p_value"] == pytest.approx(2 * stats.t.sf(abs(row["mean"] / row["error"]), 2))
    assert row["mean"] / row["error"] == pytest.approx(t.statistic)
    differences = [0.03, 0.01, 0.05]
    assert row["error"] == pytest.approx(stats.sem(differences)) and row["mean"] == pytest.approx(0.03)
    assert mean_rows(rows[:1])[0]["error"] is None
    assert mean_rows([rows[0], {**rows[0], "seed": 9}])[0]["p_value"] is None  # no spread, no test


@pytest.fixture
def launch(finished, tmp_path, monkeypatch):
    """Writes the folder of a launch whose searches are copies of a small run with other figures."""
    monkeypatch.chdir(tmp_path)

    def write(name, metrics, settings=({},), retrain=True, label=None):
        trials = []
        for number, chosen in enumerate(settings):
            for seed, value in metrics.items():
                trials.append({"name": f"{number}_seed{seed}", "seed": seed, "settings": chosen})
                run = Path(name) / "trials" / trials[-1]["name"]
                shutil.copytree(finished, run, ignore=shutil.ignore_patterns("checkpoints", "export", "events*"))
                change(run / "retrain/summary.json", lambda summary, value=value: summary["metric"].update(value=value))
                if label is not None:
                    change(run / "summary.json", lambda summary: summary["genotype"].update({"layer1.conv": label}))
                if not retrain:
                    shutil.rmtree(run / "retrain")
        shutil.copy(finished / "config.yaml", Path(name) / "base.yaml")
        content = {"format": "gumbel-nas/launch", "version": 1, "retrain": True, "num_baseline": 0, "trials": trials}
        (Path(name) / "launch.json").write_text(json.dumps(content))
        return Path(name)

    return write


def change(path, function):
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    function(content)
    path.write_text(json.dumps(content))


def test_common_seeds_are_paired(run_cli, launch):
    launch("a", METRICS["a"], label="dilation_1")
    base = launch("b", METRICS["b"], label="dilation_8") / "base.yaml"
    base.write_text(base.read_text().replace("warmup_epochs: 1", "warmup_epochs: 2"))
    result = run_cli("compare", "a", "b", "--json").result
    assert result["configuration"] == [{"key": "model.warmup_epochs", "a": 1, "b": 2}]
    assert result["part"] == "test" and result["settings"] == [{"settings": {}, "a": 4, "b": 4}]
    pairs = {row["seed"]: (row["a"], row["b"]) for row in result["pairs"]}
    assert pairs == {seed: (METRICS["a"][seed], METRICS["b"][seed]) for seed in (0, 1, 2)}
    (mean,) = result["means"]
    assert mean["mean"] == pytest.approx(0.03) and mean["error"] == pytest.approx(0.02 / math.sqrt(3))
    agreement = {row["choice"]: (row["equal"], row["num"]) for row in result["choices"]}
    assert agreement == {"layer1.conv": (0, 3), "layer2.conv": (3, 3)}
    shown = run_cli("compare", "a", "b").out
    assert "model.warmup_epochs" in shown and "0 of 3" in shown and "0.01155" in shown


def test_settings_are_paired_by_their_values(launch):
    alphas = [{"model.warmup_epochs": "1"}, {"model.warmup_epochs": "2"}]
    launch("a", {0: 0.9, 1: 0.8}, alphas)
    launch("b", {1: 0.7, 2: 0.6}, [alphas[1], {"model.warmup_epochs": "3"}])
    launch("c", {1: 0.5}, [{"model.noise": "batch"}])
    launch("d", {1: 0.4}, retrain=False)
    found = launch_differences([Path("a"), Path("b")])
    assert [(row["settings"], row["seed"], row["a"], row["b"]) for row in found["pairs"]] == [(alphas[1], 1, 0.8, 0.7)]
    assert {row["settings"]["model.warmup_epochs"]: (row.get("a"), row.get("b")) for row in found["settings"]} == {
        "1": (2, None),
        "2": (2, 2),
        "3": (None, 2),
    }
    assert launch_differences([Path("a"), Path("c")])["notes"] == [
        "no finished searches have equal settings and seeds: nothing is paired"
    ]
    single = launch_differences([Path("c"), Path("d")])  # one combination each; the second is not retrained
    assert single["part"] == "arch" and single["pairs"][0]["difference"] == 0


def test_launches_that_cannot_be_compared(run_cli, launch):
    launch("a", {0: 0.9})
    broken = launch("b", {0: 0.9, 1: 0.8})
    shutil.rmtree(broken / "trials/0_seed1")
    assert "note: b: 1 of 2 searches are finished" in run_cli("compare", "a", "b").out
    assert "are the same folder" in run_cli("compare", "a", "a/").complaint
    change(broken / "trials/0_seed0/summary.json", lambda summary: summary.update(metric=3))
    assert "b/trials/0_seed0/summary.json: damaged" in run_cli("compare", "a", "b").complaint
    (broken / "base.yaml").write_text("model: [")
    assert "b/base.yaml: not valid YAML" in run_cli("compare", "a", "b").complaint
    (broken / "launch.json").write_text("{}")
    assert "b/launch.json: not a launch" in run_cli("compare", "a", "b").complaint


def test_only_what_both_searches_of_a_pair_have_is_compared(tmp_path):
    for name in "ab":  # equal results
        write_launch(tmp_path / name, {"own": {}}, [0, 1])
    change(tmp_path / "a/trials/own_seed0/summary.json", lambda summary: summary["genotype"].pop("layer0"))
    change(tmp_path / "b/trials/own_seed1/summary.json", lambda summary: summary["genotype"].pop("layer1"))
    shutil.rmtree(tmp_path / "b/trials/own_seed0/retrain")
    found = launch_differences([tmp_path / "a", tmp_path / "b"])
    agreement = {row["choice"]: (row["equal"], row["num"]) for row in found["choices"]}
    assert agreement == {"layer0": (1, 1), "layer1": (1, 1), "layer2": (2, 2)}
    assert found["part"] == "test" and [row["seed"] for row in found["pairs"]] == [1]
    shutil.rmtree(tmp_path / "b/trials/own_seed1/retrain")
    found = launch_differences([tmp_path / "a", tmp_path / "b"])
    assert found["part"] == "arch" and [row["seed"] for row in found["pairs"]] == [0, 1]
