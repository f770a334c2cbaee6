"""Files of an earlier version (tests/data/v0/README.md) load, resume, and give what was recorded then."""

import csv
import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nas as package
from nas.io import checkpoint_io
from nas.io.moved import MOVED
from nas.io.versions import versions
from nas.launch.launch import read_launch
from search_spaces.dilation import DilationNet1d

DATA = Path(__file__).parent / "data" / "v0"
ONE_SAMPLE = 1 / 597
"""Accuracy that one test sample is worth: another CPU rounds sums differently, and a prediction may change."""
LARGEST_STEP = 1.001 / 300
"""Accuracy that one sample of the smallest split is worth, printed with float32's digits."""
ROUNDING = 1e-3
"""Relative difference that other rounding may grow to in a few epochs of training."""


@pytest.fixture
def old(tmp_path, monkeypatch):
    """Copies a file or folder into an empty working directory; checkpoints name today's versions and no machine, so that runs resume."""
    monkeypatch.chdir(tmp_path)

    def copy(name):
        target = tmp_path / Path(name).name
        if (DATA / name).is_file():
            return shutil.copy(DATA / name, target)
        shutil.copytree(DATA / name, target)
        for path in target.rglob("last.ckpt"):
            state = checkpoint_io.load(path)
            state["callbacks"]["Record"] |= {"versions": versions(), "machine": None}
            checkpoint_io.save(state, path)
        return target

    return copy


def read(path):
    return json.loads(path.read_text())


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def assert_metrics(path, expected, num_known=None):
    """The rows of a metrics.csv have the old columns, with the old values in the first `num_known` rows; None: in all.

    Hard samples turn rounding into other draws: on another CPU, epochs after the first may differ by any amount.
    """
    new, old = rows(path), rows(expected)
    assert len(new) == len(old)
    assert all(its.keys() <= mine.keys() for mine, its in zip(new, old, strict=True))
    for mine, its in list(zip(new, old, strict=True))[:num_known]:
        for key, value in its.items():
            least = LARGEST_STEP if key.endswith("accuracy") else 1e-6
            close = mine[key] == value or float(mine[key]) == pytest.approx(float(value), rel=ROUNDING, abs=least)
            assert close, (key, mine[key], value)


def assert_resumed(folder, expected, before):
    """A resumed run keeps its rows, ends as the one that was not stopped, and finds the same."""
    assert (folder / "metrics.csv").read_text().startswith(before)
    num_known = max(1, before.count("\n"))  # with the header: the rows before, and the first one after the resume
    assert_metrics(folder / "metrics.csv", DATA / "expected" / f"{expected}.csv", num_known)
    assert read(folder / "genotype.json")["choices"] == read(DATA / "expected" / f"{expected}_genotype.json")["choices"]


def assert_outputs(network):
    recorded = load_file(DATA / "export" / "examples.safetensors")
    for size in (1, 2, 7):
        torch.testing.assert_close(network(recorded["input.0"][:size]), recorded[f"output.{size}.0"])


@pytest.mark.parametrize("name", ["run", "export"])
def test_load_gives_the_network_whose_outputs_were_recorded(name):
    assert_outputs(package.load(DATA / name))


@pytest.mark.parametrize("name", ["run", "export"])
def test_create_model_takes_all_weights_but_those_of_another_head(name):
    assert_outputs(package.create_model(DATA / name).eval())
    weights, other = load_file(DATA / "export" / "model.safetensors"), package.create_model(DATA / name, num_classes=3)
    changed = {key for key, value in other.state_dict().items() if not torch.equal(value, weights[key])}
    assert {value.shape[0] for key, value in other.state_dict().items() if key in changed} == {3}


def test_a_genotype_with_a_checksum_builds_the_network():
    path = DATA / "run" / "genotype.json"
    assert "checksum" in read(path)
    genotype = package.Genotype.load(path)
    assert dict(genotype.choices) == read(DATA / "run" / "summary.json")["genotype"]
    with package.architecture(genotype):
        network = DilationNet1d(num_layers=2, channels=8, dilations=(1, 4, 8), candidate_norms=True).network("retrain")
    network.load_state_dict(load_file(DATA / "export" / "model.safetensors"))
    assert_outputs(network.eval())


def test_evaluate_measures_what_the_retraining_recorded(run_cli, old):
    found, recorded = run_cli("evaluate", "--run", old("run"), "--json").result, read(DATA / "run/retrain/summary.json")
    assert found["network"] == "retrained"
    assert found["test_accuracy"] == pytest.approx(recorded["test_accuracy"], abs=1.5 * ONE_SAMPLE)
    assert found["test_loss"] == pytest.approx(recorded["test_loss"], rel=1e-4)
    assert (found["params"], found["macs"]) == (recorded["params"], recorded["macs"])


def test_derive_finds_the_same_and_scores_it_the_same(run_cli, old):
    run = old("run")
    derived = run_cli(
        "derive", "--run", run, "--strategy", "nas.derive.Argmax", "--out", "derived.json", "--json"
    ).result
    expected, summary = package.Genotype.load(DATA / "expected" / "derived.json"), read(DATA / "run" / "summary.json")
    assert package.Genotype.load("derived.json").choices == expected.choices
    assert derived["metric"]["value"] == pytest.approx(summary["metric"]["value"], abs=1.5 / 600)


def test_an_export_of_the_run_has_the_same_weights(run_cli, old):
    assert run_cli("export", "--run", old("run"), "--formats", "genotype,safetensors", "--out", "exported").code == 0
    for name in ("model.safetensors", "examples.safetensors"):
        torch.testing.assert_close(load_file(f"exported/{name}"), load_file(DATA / "export" / name))
    assert read(Path("exported/config.json"))["choices"] == read(DATA / "export" / "config.json")["choices"]


def test_report_reads_the_run(run_cli, old):
    assert run_cli("report", "--run", old("run"), "--format", "md", "--out", "report.md").code == 0
    chosen = read(DATA / "run" / "summary.json")["genotype"]
    assert all(label in Path("report.md").read_text() for label in chosen.values())


def test_network_py_needs_nothing_else():
    assert_outputs(runpy.run_path(str(DATA / "export" / "network.py"))["load"]())


@pytest.mark.slow
def test_every_format_of_the_export_is_verified(run_cli, old):
    pytest.importorskip("onnxruntime")
    answer = run_cli("export", "--verify", old("export"), "--json")
    assert answer.code == 0, answer.err
    assert list(answer.result["verified"]) == ["files", "genotype", "safetensors", "python", "onnx", "pt2"]
    assert all(row["ok"] for row in answer.result["verified"].values())


def test_a_search_goes_on_with_a_module_written_for_old_paths(run_cli, old):
    old("old_parts.py")
    folder = old("stopped")
    imported = [
        line.split()[1] for line in Path("old_parts.py").read_text().splitlines() if line.startswith("from nas")
    ]
    assert len([name for name in imported if name in MOVED]) == 3
    before = (folder / "metrics.csv").read_text()
    answer = run_cli("search", "--resume", folder, "--trust-module", "old_parts", "--json")
    assert answer.code == 0, answer.err
    assert_resumed(folder, "stopped", before)


def test_a_retraining_goes_on(run_cli, old):
    folder = old("retrain_stopped")
    before = (folder / "retrain" / "metrics.csv").read_text()
    assert run_cli("retrain", "--run", folder, "--out", folder / "retrain", "--json").code == 0
    assert (folder / "retrain" / "metrics.csv").read_text().startswith(before)
    assert_metrics(folder / "retrain" / "metrics.csv", DATA / "run" / "retrain" / "metrics.csv")
    found, recorded = (read(root / "retrain" / "summary.json") for root in (folder, DATA / "run"))
    assert found["test_accuracy"] == pytest.approx(recorded["test_accuracy"], abs=2.5 * ONE_SAMPLE)


def test_a_trial_of_a_launch_goes_on(run_cli, old):
    folder = old("launch")
    plan, trials, num_baseline, _ = read_launch(folder, ())
    assert [trial.seed for trial in trials] == [0, 1] and num_baseline == 0
    assert plan.unfinished(trials) == trials[1:]
    trial = plan.run(trials[1]).path
    before = (trial / "metrics.csv").read_text()
    assert run_cli("search", "--resume", trial, "--json").code == 0
    assert_resumed(trial, "launch_seed1", before)


@pytest.mark.slow
def test_a_launch_goes_on(run_cli, old):
    folder = old("launch")
    finished = {path: path.read_bytes() for path in (folder / "trials" / "seed0").rglob("*") if path.is_file()}
    answer = run_cli("launch", "--resume", folder, "--json")
    assert answer.code == 0, answer.err
    assert {path: path.read_bytes() for path in finished} == finished
    assert_resumed(folder / "trials" / "seed1", "launch_seed1", "")
    summary = read(folder / "summary.json")
    found = [read(folder / "trials" / f"seed{seed}" / "summary.json")["metric"]["value"] for seed in (0, 1)]
    assert summary["settings"][0]["mean"] == pytest.approx(sum(found) / 2)


@pytest.mark.slow
def test_old_configurations_repeat_their_runs(run_cli, old):
    """A new search and a new retraining of the old configuration end as the old ones did."""
    old("run")
    assert run_cli("search", "--config", "run/config.yaml", "--out", "again", "--json").code == 0
    assert_metrics(Path("again/metrics.csv"), DATA / "run" / "metrics.csv")
    assert read(Path("again/genotype.json"))["choices"] == read(DATA / "run" / "genotype.json")["choices"]
    words = ("--genotype", "run/genotype.json", "--config", "run/config.yaml")
    assert run_cli("retrain", *words, "--out", "retrained", "--json").code == 0
    assert_metrics(Path("retrained/metrics.csv"), DATA / "run" / "retrain" / "metrics.csv")
