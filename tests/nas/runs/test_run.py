"""The stages in Python: the same runs as those of the command line, and what a stage reads and makes once."""

import functools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml

import nas
from nas.data import SequentialDigits
from nas.io.errors import UsageError
from nas.runs import options


def test_stages_in_python_are_those_of_the_command_line(config, run_cli):
    path = config()
    run = nas.search(path, out="python")
    assert run_cli("search", "--config", path, "--out", "cli").code == 0
    for name in ("config.yaml", "metrics.csv"):
        assert Path("python", name).read_bytes() == Path("cli", name).read_bytes()
    other = nas.Run("cli")
    assert run.finished and run.genotype.choices == other.genotype.choices and run.path == Path("python").absolute()
    assert run.derive()["genotype"] == run.summary["genotype"] == dict(run.genotype.choices)
    retrained = run.retrain(seed=5)
    assert run_cli("retrain", "--run", "cli", "--seed", "5").code == 0
    assert retrained.summary["test_accuracy"] == nas.Run("cli/retrain").summary["test_accuracy"]
    assert run.evaluate()["test_accuracy"] == retrained.summary["test_accuracy"]
    again = nas.retrain(run.genotype, path, out="again", seed_everything=5)
    assert again.summary["test_accuracy"] == retrained.summary["test_accuracy"]
    exported = run.export(formats=["safetensors"])
    assert exported["verified"]["safetensors"]["ok"]
    x = torch.rand(2, 1, 64)
    assert torch.equal(nas.load("python/export")(x), run.network()(x))
    assert run.resume() is run  # a finished search stays as it is


def test_a_stopped_search_resumes(original, tmp_path):
    shutil.copytree(original, tmp_path / "run")
    for name in ("summary.json", "genotype.json", "manifest.json"):
        (tmp_path / "run" / name).unlink()
    run = nas.Run(tmp_path / "run")
    assert not run.finished
    with pytest.raises(UsageError, match=r"no genotype\.json yet"):
        _ = run.genotype
    with pytest.raises(UsageError, match=r"summary\.json is missing"):
        _ = run.summary
    assert run.resume().finished and run.genotype.choices == nas.Run(original).genotype.choices


def test_the_supernet_of_a_run_is_ready_for_derive_strategies(original):
    searched = nas.Run(original).searched()
    state = torch.load(original / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(searched.supernet.alpha, state["supernet.alpha"])
    assert nas.derive.Argmax().genotype(searched).choices == nas.Run(original).genotype.choices


@pytest.mark.parametrize(
    "overrides",
    [
        {"trainer": {"max_epochs": 7}, "data": {"init_args": {"batch_size": 50}}},
        {"trainer.max_epochs": 7, "data.init_args.batch_size": 50},
        {"trainer": {"max_epochs": 8}, "trainer.max_epochs": 7, "data.init_args": {"batch_size": 50}},
    ],
)
def test_overrides_are_merged_into_the_configuration(config, overrides):
    path = config()
    given = json.dumps(overrides)
    for of in (path, str(path), yaml.safe_load(path.read_text()), nas.ConfigSource((path,))):
        experiment = nas.experiment(of, seed_everything=11, **overrides)
        assert (experiment.trainer.max_epochs, experiment.data.batch_size, experiment.seed) == (7, 50, 11)
        assert experiment.trainer.num_threads == 1  # as in the file
    assert json.dumps(overrides) == given


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"trainr": {"max_epochs": 7}}, "overrides: unknown key 'trainr'"),
        ({"trainer": "other.yaml"}, "overrides: trainer must be a mapping"),
        ({"trainer": {"max_epochs": object()}}, "overrides: trainer has a value that no configuration can have"),
        ({"trainer": {"max_epochs": "many"}}, "max_epochs"),
        ({"model": {"space": "not_mine.Space"}}, "not_mine.Space.*trusted"),
    ],
)
def test_wrong_overrides_are_refused_before_a_folder_is_made(config, overrides, message):
    with pytest.raises(UsageError, match=message):
        nas.search(config(), out="run", **overrides)
    assert not Path("run").exists()


def test_own_modules_must_be_trusted(config, monkeypatch):
    Path("my_tasks.py").write_text("from nas.tasks import Classification\nclass Mine(Classification):\n    pass\n")
    task = {"class_path": "my_tasks.Mine", "init_args": {"num_classes": 10}}
    path = config({"model.task": task, "trainer.max_epochs": 1, "model.warmup_epochs": 0})
    with pytest.raises(UsageError, match="my_tasks"):
        nas.search(path, out="run")
    run = nas.search(path, out="run", trust_modules=["my_tasks"])
    assert type(run.experiment.model["task"]).__name__ == "Mine"
    with pytest.raises(UsageError, match="my_tasks"):
        _ = nas.Run("run").experiment


def test_no_folder_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="no such run folder"):
        nas.Run(tmp_path / "nothing")


@pytest.fixture
def counted(monkeypatch):
    """Counts the reads of YAML files, the data modules and the Trainers that are made."""
    counts = Counter()

    def count(owner, name, key):
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args, **keywords):
            counts[key] += 1
            return original(*args, **keywords)

        monkeypatch.setattr(owner, name, wrapper)

    count(options, "check_yaml", "yaml")
    count(SequentialDigits, "__init__", "data")
    count(pl.Trainer, "__init__", "trainer")
    return counts


def test_a_stage_reads_each_file_once_and_makes_one_trainer_and_one_data_module(config, run_cli, counted):
    path = config()
    for words in (
        ("search", "--config", path, "--out", "run"),
        ("retrain", "--run", "run"),
        ("evaluate", "--run", "run"),
        ("derive", "--run", "run"),
    ):
        counted.clear()
        assert run_cli(*words).code == 0
        assert counted == {"yaml": 1, "data": 1, "trainer": 1}, words
    counted.clear()
    assert run_cli("export", "--run", "run", "--formats", "python").code == 0
    assert counted == {"yaml": 1, "data": 1, "trainer": 1}


def test_two_files_and_a_seed_are_read_once_each(config, run_cli, counted):
    path = config()
    Path("more.yaml").write_text("trainer: {max_epochs: 1}\nmodel: {warmup_epochs: 0}\n")
    nas.Genotype({"layer1.conv": "dilation_1", "layer2.conv": "dilation_8"}).save("genotype.json")
    words = ("--genotype", "genotype.json", "--config", path, "--config", "more.yaml", "--seed", "2")
    assert run_cli("retrain", *words, "--out", "run").code == 0
    assert counted["yaml"] == 2 and counted["data"] == counted["trainer"] == 1
