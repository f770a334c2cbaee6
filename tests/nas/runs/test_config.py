"""One experiment for both stages: files are read once, and the data are made once, when they are used."""

from functools import wraps
from pathlib import Path

import pytest
import yaml

from nas.data import SequentialDigits
from nas.io.errors import UsageError
from nas.runs.config import load_experiment, load_retraining
from nas.runs.options import ConfigSource
from nas.runs.schema import make_parser
from nas.runs.spaces import load_space_of


@pytest.fixture
def made(monkeypatch):
    """Counts the data modules that are made."""
    found = []
    make = SequentialDigits.__init__

    @wraps(make)
    def counted(self, *args, **options):
        found.append(options)
        make(self, *args, **options)

    monkeypatch.setattr(SequentialDigits, "__init__", counted)
    return found


def test_both_stages_share_the_data(config, made):
    experiment = load_experiment(ConfigSource((config(),)))
    retraining = experiment.for_retrain()
    assert made == []
    assert retraining.data is experiment.data and len(made) == 1


def test_data_that_the_retrain_section_changes_are_made_anew(config, made):
    experiment = load_experiment(ConfigSource((config({"retrain.data": {"batch_size": 16}}),)))
    retraining = experiment.for_retrain()
    assert retraining.data.batch_size == 16 != experiment.data.batch_size and len(made) == 2


def test_the_stage_after_a_search_is_the_one_that_is_loaded_by_itself(config):
    source = ConfigSource((config({"retrain.trainer": {"max_epochs": 7}}),), ("--seed_everything=3",))
    one, other = load_experiment(source).for_retrain(), load_retraining(source)
    assert one.applied == other.applied and one.values == other.values
    assert one.trainer == other.trainer and one.trainer.max_epochs == 7 and one.seed == other.seed == 3
    assert one.applied["trainer"]["max_epochs"] == 7 != one.values["trainer"]["max_epochs"]


def test_numbers_of_files_are_those_of_the_parser(config):
    text = config().read_text().replace("lr: 0.01", "lr: 1e-2") + "\n"
    Path("short.yaml").write_text(text)
    experiment = load_experiment(ConfigSource((Path("short.yaml"),)))
    assert experiment.values["model"]["weight_optimizer"]["init_args"]["lr"] == 0.01
    rate = {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": "1e-2"},
    }  # text in a mapping of free values stays text
    path = config({"model.weight_optimizer": rate})
    assert load_experiment(ConfigSource((path,))).values["model"]["weight_optimizer"]["init_args"]["lr"] == 0.01


def test_the_written_configuration_is_read_as_it_was(run):
    values = yaml.safe_load(Path("run/config.yaml").read_text())
    assert values == load_experiment(ConfigSource((Path("run/config.yaml"),))).values


def test_a_wrong_retrain_section_is_named(config, run_cli):
    answer = run_cli("search", "--config", config({"retrain.space": {"no_such_size": 3}}), "--out", "run")
    assert answer.code == 2 and "retrain" in answer.complaint and "no_such_size" in answer.complaint
    assert not Path("run").exists()


def test_a_configuration_is_read_the_same_by_a_new_parser_and_after_others():
    sources = [ConfigSource((path,)) for path in sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))[::4]]

    def read_anew(source):
        make_parser.cache_clear()
        return load_experiment(source).values

    expected = [read_anew(source) for source in sources]
    for values, source in zip(expected, sources, strict=True):
        assert load_experiment(source).values == values
        with pytest.raises(UsageError, match="no_such_key"):
            load_experiment(source.extended("--model.no_such_key=1"))
        load_experiment(source.extended("--retrain.inherit=true", "--model.warmup_epochs=7"), stage="retrain")
    assert [load_experiment(source).values for source in reversed(sources)] == expected[::-1]
    assert make_parser.cache_info().misses == 1


def test_arguments_that_are_a_list_are_named(config):
    path = config({"model.space.init_args": [None]})
    with pytest.raises(UsageError, match=r"DilationNet1d: init_args must be a mapping of arguments, got \[None\]"):
        load_space_of(ConfigSource((path,)))
