"""What differs between two runs: what the files themselves say, and one line for folders that cannot be compared."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from nas.genotype import Genotype
from nas.report.differences import choice_rows, curve_rows, run_differences, value_rows


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """Copies the finished run, with its retraining, into the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        shutil.copytree(finished, name)
        return Path(name)

    return make


@pytest.fixture
def other(run_cli, config):
    """Another search: seed, schedule of tau, and number of epochs differ."""
    changes = {"seed_everything": 4, "trainer.max_epochs": 2}
    changes["model.tau"] = {"class_path": "nas.tau.Linear", "init_args": {"start": 3.0}}
    assert run_cli("search", "--config", config(changes), "--out", "other").code == 0
    return Path("other")


def unfinish(run):
    for name in ("summary.json", "genotype.json", "manifest.json"):
        (run / name).unlink()


def test_values_by_key():
    tau = {"class_path": "nas.tau.Linear", "init_args": {"start": 5.0, "end": 0.1}}
    a = {"model": {"tau": tau, "alpha": None, "list": [1, 2]}, "seed_everything": 1}
    b = {"model": {"tau": {"class_path": "mine.Linear", "init_args": {"start": 5.0, "slope": 2}}, "list": [1, 3]}}
    assert {row.pop("key"): row for row in value_rows(a, b)} == {
        "model.tau": {"a": "nas.tau.Linear", "b": "mine.Linear"},
        "model.tau.end": {"a": 0.1},
        "model.tau.slope": {"b": 2},
        "model.alpha": {"a": None},
        "model.list": {"a": [1, 2], "b": [1, 3]},
        "seed_everything": {"a": 1},
    }
    assert value_rows(a, a) == []


def test_curves_up_to_the_first_difference():
    a = [(6, {"arch/loss": 2.0, "arch/accuracy": 0.5, "choice/x/p": 0.5}), (12, {"arch/loss": 3.0, "choice/x/p": 0.6})]
    b = [(6, {"arch/loss": 2.0, "arch/accuracy": 0.4, "choice/x/p": 0.5}), (12, {"arch/loss": 3.0, "choice/x/p": 0.7})]
    rows = {row["tag"]: row for row in curve_rows(a, b)}
    assert rows["arch/loss"] == {
        "tag": "arch/loss",
        "equal": True,
        "differs_at": None,
        **{"final_a": 3.0, "best_a": 2.0, "final_b": 3.0, "best_b": 2.0},
    }
    assert rows["arch/accuracy"]["differs_at"] == 6 and not rows["arch/accuracy"]["equal"]
    assert rows["probabilities"] == {"tag": "probabilities", "equal": False, "differs_at": 12}
    shorter = {row["tag"]: row for row in curve_rows(a, a[:1])}
    assert not shorter["arch/loss"]["equal"] and shorter["arch/loss"]["differs_at"] is None
    accuracy = [(6, {"arch/accuracy": 0.9}), (12, {"arch/accuracy": 0.8})]
    moved = [(7, {"arch/accuracy": 0.9})]
    (row,) = curve_rows(accuracy, moved)
    assert (row["best_a"], row["final_a"], row["differs_at"]) == (0.9, 0.8, 6)  # the same value at another batch
    assert "final_b" not in curve_rows(accuracy, [])[0]
    broken = [[(6, {"train/loss": float("nan")}), (12, {"train/loss": 1.0})] for _ in range(2)]
    assert curve_rows(*broken)[0]["equal"] and curve_rows(*broken)[0]["best_a"] == 1.0


def test_choices_with_their_probabilities():
    a = Genotype({"x": "p", "y": ["p", "q"]}, probabilities={"x": {"p": 0.75, "q": 0.25}, "y": {"p": 0.5, "q": 0.5}})
    b = Genotype({"x": "q"})
    assert choice_rows(a, b) == [
        {"choice": "x", "a": "p", "probability_a": [0.75], "b": "q", "probability_b": []},
        {"choice": "y", "a": ["p", "q"], "probability_a": [0.5, 0.5]},
    ]


def test_a_run_and_its_copy_are_equal(run_cli, copy):
    copy("a"), copy("b")
    result = run_cli("compare", "a", "b", "--json").result
    assert result["configuration"] == result["unfinished"] == result["notes"] == []
    assert all(row["equal"] for row in result["curves"]) and {row["difference"] for row in result["figures"]} == {0}
    assert [row["a"] for row in result["choices"]] == [row["b"] for row in result["choices"]]
    retrained = run_cli("compare", "a/retrain", "b/retrain")
    assert retrained.code == 0 and "test_accuracy" in retrained.out and "configuration: equal" in retrained.out


def test_two_searches_differ_as_their_files_do(run_cli, copy, other):
    run = copy("run")
    result = run_cli("compare", "run", "other", "--json").result
    keys = {row["key"]: (row.get("a"), row.get("b")) for row in result["configuration"]}
    ends = [
        yaml.safe_load((path / "config.yaml").read_text())["model"]["tau"]["init_args"]["end"] for path in (run, other)
    ]
    assert keys == {
        "seed_everything": (3, 4),
        "trainer.max_epochs": (3, 2),
        "model.tau": ("nas.tau.Exponential", "nas.tau.Linear"),
        "model.tau.start": (5.0, 3.0),
        **({} if ends[0] == ends[1] else {"model.tau.end": tuple(ends)}),
    }
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run, other)]
    figures = {row["name"]: row for row in result["figures"]}
    values = [summary["metric"]["value"] for summary in summaries]
    assert (figures["arch_accuracy"]["a"], figures["arch_accuracy"]["b"]) == tuple(values)
    assert figures["arch_accuracy"]["difference"] == pytest.approx(values[1] - values[0], abs=1e-12)
    assert "b" not in figures["retrained test_accuracy"] and figures["retrained test_accuracy"]["difference"] is None
    columns = [list(csv.DictReader((path / "metrics.csv").read_text().splitlines())) for path in (run, other)]
    losses = [[float(row["weight/loss"]) for row in rows] for rows in columns]
    row = next(row for row in result["curves"] if row["tag"] == "weight/loss")
    assert (row["final_a"], row["best_a"]) == (losses[0][-1], min(losses[0])) and row["best_b"] == min(losses[1])
    assert row["differs_at"] == int(columns[0][0]["step"])
    assert {row["choice"]: (row["a"], row["b"]) for row in result["choices"]} == {
        name: (label, summaries[1]["genotype"][name]) for name, label in summaries[0]["genotype"].items()
    }
    shown = run_cli("compare", "run", "other").out
    for said in ("A: run", "B: other", "nas.tau.Linear", "arch/accuracy", "layer1.conv", "no, from batch 6"):
        assert said in shown, said


def test_unfinished_runs_are_compared_as_far_as_they_go(run_cli, copy):
    copy("a")
    part = copy("part")
    unfinish(part)
    lines = (part / "metrics.csv").read_text().splitlines(keepends=True)
    (part / "metrics.csv").write_text("".join(lines[:2]))
    shutil.rmtree(part / "retrain")
    result = run_cli("compare", "a", "part", "--json").result
    assert result["unfinished"] == ["part"] and not any("b" in row for row in result["figures"] + result["choices"])
    loss = next(row for row in result["curves"] if row["tag"] == "weight/loss")
    assert not loss["equal"] and loss["differs_at"] is None and loss["final_b"] == loss["best_b"]
    (part / "metrics.csv").unlink()
    assert "unfinished: part" in run_cli("compare", "a", "part").out


def test_other_spaces(run_cli, copy, config):
    copy("a")
    path = config({"model.space.init_args.dilations": [1, 4]})
    assert run_cli("search", "--config", path, "--out", "b").code == 0
    result = run_cli("compare", "a", "b", "--json").result
    assert len(result["choices"]) == 2
    assert re.search("choices differ in kind; 0 of 2 choices have the same", *result["notes"])


def edit_config(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 3", "max_epochs: 4"))


def write(name, text):
    return lambda run: (run / name).write_text(text)


def drop_metric(run):
    content = json.loads((run / "summary.json").read_text())
    kept = {key: content[key] for key in ("stage", "genotype")}
    (run / "summary.json").write_text(json.dumps({**kept, "metric": 3}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit_config, "b: config.yaml was changed after the run finished"),
        (write("metrics.csv", "step,arch/loss\n6,much\n"), r"b/metrics.csv: damaged"),
        (write("metrics.csv", "\n\n"), None),
        (write("genotype.json", "{}"), "b/genotype.json: not a genotype"),
        (write("summary.json", "[]"), "b/summary.json: damaged"),
        (drop_metric, "b: summary.json is damaged"),
    ],
)
def test_damaged_files_give_one_line(run_cli, copy, damage, message):
    copy("a")
    damage(copy("b"))
    answer = run_cli("compare", "a", "b")
    assert answer.code == 0 if message is None else re.search(message, answer.complaint), answer.err


def test_folders_that_cannot_be_compared(run_cli, copy, tmp_path):
    copy("a")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/launch.json").write_text("{}")
    for words, message in (
        (("a", "a"), "a and a are the same folder"),
        (("a", "link"), "are the same folder"),
        (("a", "a/retrain"), "a is a search, but a/retrain is a retrain; compare runs of one stage"),
        (("a", "launch"), "launch is a launch and the other folder is not"),
        (("a", "none"), "none: no such run folder"),
    ):
        answer = run_cli("compare", *words)
        assert answer.code == 2 and message in answer.complaint
    with pytest.raises(ValueError, match="the same folder"):
        run_differences([Path("a"), Path("a/../a")])
