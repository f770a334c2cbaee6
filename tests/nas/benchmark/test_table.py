"""Stand-alone trainings, the tables made of them, random search, and what a search says of them."""

import json
import math
import statistics
from pathlib import Path

import pytest

from nas.benchmark import Table, training_of
from nas.data import SequentialDigits
from nas.genotype import Genotype
from nas.io.errors import UsageError
from nas.runs.config import load_retraining
from nas.runs.options import ConfigSource
from nas.runs.results import find_table
from nas.runs.stages.baseline import summarised as baseline_summary
from nas.runs.standalone import NUM_FOLDS, sample_architectures, standalone_score

LABELS = ("dilation_1", "dilation_8")
EVERYTHING = [{"layer1.conv": a, "layer2.conv": b} for a in LABELS for b in LABELS]


@pytest.fixture
def experiment(config):
    return load_retraining(ConfigSource((config(),)))


def filled(values, training=None):
    """A table of the four architectures of the small space."""
    table = Table(training or {}, "accuracy")
    for choices, (validation, test) in zip(EVERYTHING, values, strict=True):
        for seed in range(2):
            table.add(choices, "validation", seed, validation + 0.01 * (2 * seed - 1))
            table.add(choices, "test", seed, test)
    return table


VALUES = [(0.5, 0.9), (0.8, 0.6), (0.8, 0.7), (0.6, 0.8)]


def test_a_tested_architecture_has_the_score_of_retraining(run_cli, experiment):
    choices = EVERYTHING[1]
    Genotype(choices).save("genotype.json")
    answer = run_cli(
        "retrain", "--genotype", "genotype.json", "--config", "tiny.yaml", "--seed", "5", "--out", "r", "--json"
    )
    assert standalone_score(experiment, Genotype(choices), "test", 5).value == answer.result["test_accuracy"]


def test_validation_never_reads_the_test_set_nor_the_fold_it_judges_by(experiment, monkeypatch):
    monkeypatch.setattr(SequentialDigits, "test_set", lambda self: pytest.fail("the test set was read"))
    first = [standalone_score(experiment, Genotype(EVERYTHING[0]), "validation", seed).value for seed in (0, NUM_FOLDS)]
    assert all(0 < value < 1 for value in first)
    assert standalone_score(experiment, Genotype(EVERYTHING[0]), "validation", 0).value == first[0]


def test_search_and_derive_never_read_the_test_set(run_cli, config, monkeypatch):
    monkeypatch.setattr(SequentialDigits, "test_set", lambda self: pytest.fail("the test set was read"))
    ranked = {"class_path": "nas.derive.Ranked", "init_args": {"refit_head": True}}
    path = config({"model.derive": ranked})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    for name in ("Argmax", "Ranked"):
        assert run_cli("derive", "--run", "run", "--strategy", f"nas.derive.{name}").code == 0
    with pytest.raises(pytest.fail.Exception):  # what does read it is noticed
        run_cli("retrain", "--run", "run")


def test_architectures_are_different_and_the_first_ones_do_not_depend_on_the_number(experiment):
    assert sample_architectures(experiment, 4) == sample_architectures(experiment, 100) == EVERYTHING
    three = sample_architectures(experiment, 3)
    assert len({json.dumps(choices) for choices in three}) == 3
    assert sample_architectures(experiment, 2) == three[:2]


def test_standing():
    table = filled(VALUES)
    assert table.standing(EVERYTHING[3], "validation") == {
        "rank": 3,
        "num": 4,
        "value": pytest.approx(0.6),
        "regret": pytest.approx(0.2),
    }
    assert (
        table.standing(EVERYTHING[1], "validation")["rank"] == 1 == table.standing(EVERYTHING[2], "validation")["rank"]
    )
    assert table.standing(EVERYTHING[0], "test")["rank"] == 1
    assert table.standing({"layer1.conv": "dilation_1"}, "test") is None


def test_the_lowest_error_is_the_best():
    table = filled(VALUES)
    table.higher_is_better = False
    values = [table.value(choices, "validation") for choices in EVERYTHING]
    for choices, value in zip(EVERYTHING, values, strict=True):
        standing = table.standing(choices, "validation")
        assert standing["rank"] == 1 + sum(other < value for other in values) and standing["value"] == value
        assert standing["regret"] == pytest.approx(value - min(values))
    assert max(table.random_sample()[0]) == -min(values)
    assert baseline_summary(table, EVERYTHING)["best"]["validation"] == min(values)


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = filled(VALUES, {"space": {"class_path": "a.B"}})
    table.higher_is_better = False
    table.seconds, table.provenance = 2.5, {"date": "today"}
    table.save(tmp_path / "t.json")
    assert vars(Table.load(tmp_path / "t.json")) == vars(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged, not valid JSON"),
        ('{"format": "gumbel-nas/genotype", "version": 1}', "not a table"),
        ('{"format": "gumbel-nas/table", "version": 1, "training": {}, "metric": "accuracy", "seconds": 1}', "damaged"),
        (
            '{"format": "gumbel-nas/table", "version": 1, "training": {}, "metric": "a", "seconds": 1, "provenance": {}, '
            '"architectures": [{"choices": {"a": "b"}, "validation": {"0": "high"}, "test": {}}]}',
            "damaged",
        ),
        (
            '{"format": "gumbel-nas/table", "version": 1, "training": {}, "metric": "a", "seconds": 1, "provenance": {}, '
            '"architectures": [{"choices": {"a": "b"}, "validation": {"0": "nan"}, "test": {}}]}',
            "damaged",
        ),
    ],
)
def test_damaged_tables(tmp_path, text, message):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        Table.load(tmp_path / "t.json")
    with pytest.raises(UsageError, match="no such table"):
        Table.load(tmp_path / "none.json")


SPACE = """
from search_spaces.dilation import DilationNet1d

class Mine(DilationNet1d):
    pass
"""


def test_a_search_says_where_its_find_stands_in_the_table_beside_the_space(run_cli, config, monkeypatch):
    Path("my_tabled_space.py").write_text(SPACE)
    arguments = {"num_layers": 2, "channels": 4, "dilations": [1, 8]}
    path = config({"model.space": {"class_path": "my_tabled_space.Mine", "init_args": arguments}})
    words = ("--config", path, "--trust-module", "my_tabled_space")
    assert run_cli("search", *words, "--out", "without", "--json").result["standing"] is None
    experiment = load_retraining(ConfigSource((path,), (), ("my_tabled_space",)))
    assert find_table(experiment) is None
    Path("tables").mkdir()
    filled(VALUES, {"space": "another"}).save(Path("tables/a.json"))
    filled(VALUES, training_of(experiment.applied)).save(Path("tables/b.json"))
    answer = run_cli("search", *words, "--out", "with")
    standing = json.loads(Path("with/summary.json").read_text())["standing"]
    found = json.loads(Path("with/genotype.json").read_text())["choices"]
    assert standing["value"] == pytest.approx(VALUES[EVERYTHING.index(found)][0]) and standing["num"] == 4
    assert f"rank in the table of this space: {standing['rank']} of 4" in answer.out
    assert (
        standing == run_cli("derive", "--run", "with", "--trust-module", "my_tabled_space", "--json").result["standing"]
    )
    assert (
        run_cli("search", *words, "--retrain.trainer.max_epochs", 3, "--out", "longer", "--json").result["standing"]
        is None
    )


def test_baseline(run_cli, config, experiment):
    answer = run_cli("baseline", "--config", "tiny.yaml", "--num", 3, "--out", "b", "--json")
    result = answer.result
    table = Table.load(Path("b/table.json"))
    drawn = sample_architectures(experiment, 3)
    values = {part: [table.value(choices, part) for choices in drawn] for part in ("validation", "test")}
    assert values["test"][0] == standalone_score(experiment, Genotype(drawn[0]), "test", 3).value
    best = max(range(3), key=values["validation"].__getitem__)
    assert result["best"] == {
        "genotype": drawn[best],
        "validation": values["validation"][best],
        "test": values["test"][best],
    }
    for part, scores in values.items():
        assert result[part] == {
            "mean": pytest.approx(statistics.fmean(scores)),
            "std": pytest.approx(statistics.stdev(scores)),
        }
    assert result["search_seconds"] == pytest.approx(3 * result["seconds_per_training"])
    shown = run_cli("baseline", "--config", "tiny.yaml", "--num", 3, "--out", "b").out
    assert f"test accuracy of the best in validation: {values['test'][best]:.4f}" in shown


def test_a_baseline_goes_on_where_it_stopped(run_cli, config, monkeypatch):
    path = config()
    assert run_cli("baseline", "--config", path, "--num", 1, "--out", "b").code == 0
    before = Table.load(Path("b/table.json")).rows
    calls = []
    monkeypatch.setattr("nas.runs.stages.baseline.standalone_score", lambda *a: calls.append(a) or standalone_score(*a))
    assert run_cli("baseline", "--config", path, "--num", 2, "--out", "b").code == 0
    after = Table.load(Path("b/table.json")).rows
    assert [call[2] for call in calls] == ["validation", "test"] and len(after) == 2 and before.items() <= after.items()


def test_a_single_architecture_has_no_spread(run_cli, config):
    result = run_cli("baseline", "--config", config(), "--num", 1, "--out", "b", "--json").result
    assert result["test"]["std"] is None or math.isnan(result["test"]["std"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config", "tiny.yaml", "--num", 0), "--num must be at least 1"),
        (("--config", "tiny.yaml"), "--num"),
        (("--num", 2), "required: --config"),
        (("--config", "tiny.yaml", "--num", 2, "--out", "b", "--seed_everything", 9), "another configuration"),
        (("--config", "tiny.yaml", "--num", 2, "--out", "tiny.yaml"), "tiny.yaml"),
    ],
)
def test_bad_baselines(run_cli, config, words, message):
    config()
    Path("b").mkdir()
    Table({"something": "else"}, "accuracy").save(Path("b/table.json"))
    answer = run_cli("baseline", *words)
    assert answer.code == 2 and message in answer.complaint
