"""Every shipped configuration parses and instantiates, its header says what it is, and it runs, on random data where its own is large."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from torchvision import datasets

from nas.profile.report import profile
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource
from nas.training.search_module import SearchModule

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
VALUES = {path: yaml.safe_load(path.read_text()) for path in CONFIGS}
VISION = [path for path in CONFIGS if VALUES[path]["data"]["class_path"] == "nas.data.Vision"]
NPZ = [path for path in CONFIGS if VALUES[path]["data"]["class_path"] == "nas.data.Npz"]
BUNDLED = [path for path in CONFIGS if path not in VISION + NPZ]

FAST = {"macro_cifar10"}  # the others profile for more than 5 s
BATCH_SIZE = 2
IMAGE_SIZES = {"CIFAR10": 32, "ImageFolder": 224}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def parameters(paths, fast=None):
    return [pytest.param(p, id=p.stem, marks=() if fast is None or p.stem in fast else pytest.mark.slow) for p in paths]


def sample_shape(values):
    """The shape of a sample that a configuration's space reads."""
    arguments = values["model"]["space"]["init_args"]
    if "num_features" in arguments:
        return (arguments["num_features"],)
    size = IMAGE_SIZES[values["data"]["init_args"]["name"]]
    return (arguments.get("space", {}).get("init_args", arguments)["in_channels"], size, size)


def random_data(values, folder):
    """Overrides that put a file of random samples in place of a configuration's data."""
    draw = np.random.default_rng(0)
    num_classes = values["model"]["task"]["init_args"]["num_classes"]
    arrays = {}
    for part, number in (("train", 4 * BATCH_SIZE), ("test", BATCH_SIZE)):
        arrays[f"x_{part}"] = draw.standard_normal((number, *sample_shape(values)), dtype=np.float32)
        arrays[f"y_{part}"] = np.arange(number) % num_classes
    path = folder / "random.npz"
    np.savez(path, **arrays)
    arguments = {
        "path": str(path),
        "batch_size": BATCH_SIZE,
        "num_workers": 0,
        "pin_memory": False,
        "prefetch_factor": 2,
        "arch_fraction": 0.5,
    }
    data = {"class_path": "nas.data.Npz", "init_args": arguments}  # what both classes take would else be kept
    return (f"--data={json.dumps(data)}", "--retrain.data=null", "--trainer.num_threads=1")


@pytest.mark.parametrize("path", parameters(CONFIGS))
def test_config(path, tmp_path):
    overrides = random_data(VALUES[path], tmp_path) if path in NPZ else ()  # an Npz reads its file at once
    load_experiment(ConfigSource((path,), overrides), stage="retrain")
    experiment = load_experiment(ConfigSource((path,), overrides))
    module = SearchModule(**experiment.model, seed=experiment.seed)
    assert module.supernet.choices
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(header)
    assert "Command:" in text and "Measured:" in text and f"configs/{path.name}" in text


def test_there_are_configs():
    assert BUNDLED and VISION and NPZ


@pytest.mark.parametrize("stage", ["search", "retrain"])
@pytest.mark.parametrize("path", parameters(VISION))
def test_transforms(path, stage, monkeypatch):
    """Images come out of a configuration's transforms in the size that its network reads, augmented or not."""
    monkeypatch.setattr(datasets, "CIFAR10", lambda root, **options: fake((3, 32, 32), options["transform"]))
    monkeypatch.setattr(datasets, "ImageFolder", lambda root, transform, loader: fake((3, 300, 400), transform))
    data = load_experiment(ConfigSource((path,)), stage=stage).data
    for dataset in (data.train_set(True), data.train_set(False), data.test_set()):
        image, _ = dataset[0]
        assert image.shape == sample_shape(VALUES[path])
        assert image.std() == pytest.approx(1, abs=0.7), "normalised"  # uniform noise, not photographs


def fake(shape, transform):
    return datasets.FakeData(2, shape, num_classes=10, transform=transform)


@pytest.mark.parametrize("path", parameters(VISION + NPZ, FAST))
def test_large_config_profiles_and_takes_a_step(path, tmp_path, run_cli):
    overrides = random_data(VALUES[path], tmp_path)
    report = profile(ConfigSource((path,), overrides))
    for name, row in report["costs"].items():
        assert row["smallest"] <= row["mean"] <= row["largest"]
        if name != "latency_ms":  # on a busy machine, times come out at anything
            assert row["smallest"] > 0
    assert report["targets"].get("can_be_met", True)
    assert set(report["targets"].get("limits", {})) == set(VALUES[path]["model"].get("cost", {}))
    step = {"max_epochs": 1, "limit_train_batches": 1}
    words = [*overrides, *(f"--trainer.{key}={value}" for key, value in step.items()), "--model.warmup_epochs=0"]
    run(run_cli, path, tmp_path / "run", *words, f"--retrain.trainer={json.dumps(step)}")


@pytest.mark.slow
@pytest.mark.parametrize("path", parameters(BUNDLED))
def test_small_config_runs(path, tmp_path, run_cli):
    words = ("--trainer.max_epochs=2", "--model.warmup_epochs=0", '--retrain.trainer={"max_epochs": 1}')
    run(run_cli, path, tmp_path / "run", *words)


def run(run_cli, path, folder, *words):
    """Searches and retrains; the limits of the configuration are kept. So short a search may well choose skips, which is warned of."""
    answer = run_cli("search", "--config", path, *words, "--model.guards.max_skip_share=1", "--out", folder, "--json")
    assert answer.code == 0, answer.err
    cost = VALUES[path]["model"].get("cost", {})
    assert answer.result["target_met"] is (True if cost else None)
    answer = run_cli("retrain", "--run", folder, "--json")
    assert answer.code == 0, answer.err
    assert answer.result["metric"]["name"] == ("iou" if "segment" in path.name else "accuracy")
    if "macs" in cost:
        assert answer.result["macs"] <= cost["macs"]["max"]
