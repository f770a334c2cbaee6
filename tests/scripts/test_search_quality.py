"""The truth of a small space, and searches judged by it."""

import csv
import itertools
import json
import statistics
from pathlib import Path

import pytest

from nas.benchmark import Table
from nas.genotype import key_of
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource

LABELS = ("dilation_1", "dilation_8")


@pytest.fixture(scope="module")
def enumerate_space(load_file):
    return load_file("scripts/enumerate_space.py")


@pytest.fixture(scope="module")
def quality(load_file):
    return load_file("scripts/search_quality.py")


@pytest.mark.slow
def test_the_table_has_every_architecture_and_searches_are_judged_by_it(enumerate_space, quality, config, capsys):
    path = str(config())
    words = ["--config", path, "--seeds", "2", "--out", "table.json"]
    assert enumerate_space.main(words) == 0
    table = Table.load(Path("table.json"))
    expected = {key_of({"layer1.conv": a, "layer2.conv": b}) for a in LABELS for b in LABELS}
    assert set(table.rows) == expected
    assert all(set(scores) == {0, 1} for values in table.rows.values() for scores in values.values())
    assert table.provenance["command"].startswith("python scripts/enumerate_space.py --config")

    lines = Path("table.jsonl").read_text().splitlines()
    Path("table.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:10])  # the last one was cut off
    capsys.readouterr()
    assert enumerate_space.main(words) == 0
    assert "1/1 " in capsys.readouterr().out  # only that one is trained again
    assert Table.load(Path("table.json")).rows == table.rows

    judge = ["--config", path, "--table", "table.json", "--seeds", "3,4", "--methods", "default", "--out", "quality"]
    assert quality.main(judge) == 0
    rows = list(csv.DictReader(Path("quality/searches.csv").read_text().splitlines()))
    assert [row["seed"] for row in rows] == ["3", "4"]
    for row in rows:
        assert float(row["worth"]) == pytest.approx(table.value(json.loads(row["genotype"]), "validation"))
        assert -1 <= float(row["tau"]) <= 1
    assert Path("quality/quality.md").read_text() in capsys.readouterr().out
    assert Path("quality/quality.png").stat().st_size > 1000


def random_table():
    """Scores of 6 architectures by 3 seeds."""
    table = Table({}, "accuracy")
    for i in range(6):
        for seed in range(3):
            table.add({"a": str(i)}, "validation", seed, ((i * 7 + seed * 5) % 11) / 10)
            table.add({"a": str(i)}, "test", seed, ((i * 3 + seed) % 7) / 10)
    return table


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("num", [1, 2, 3])
def test_random_search_is_worth_what_enumeration_says(quality, part, num):
    """All pools of `num` architectures and all seeds that choose."""
    table = random_table()
    values = []
    for pool in itertools.combinations(table.rows, num):
        for seed in range(3):
            best = max(pool, key=lambda key: table.rows[key]["validation"][seed])
            scores = table.rows[best][part]
            values.append(statistics.fmean(v for s, v in scores.items() if part == "test" or s != seed))
    got = quality.random_search(table, part, num, list(table.rows))
    assert got == pytest.approx(statistics.fmean(values), rel=1e-12)  # sums in float64


def test_between_whole_numbers_random_search_is_worth_its_share(quality):
    table = random_table()
    one, two, between = (quality.random_search(table, "test", n, list(table.rows)) for n in (1, 2, 1.25))
    assert between == pytest.approx(0.75 * one + 0.25 * two)


def test_seeds(quality):
    assert quality.parse_seeds("100-103") == [100, 101, 102, 103] and quality.parse_seeds("3,5") == [3, 5]


def test_every_method_is_a_configuration(quality):
    source = ConfigSource((Path(__file__).parents[2] / "configs" / "dilation_digits.yaml",))
    for name, changes in quality.METHODS.items():
        changed = source
        for key, value in changes.items():
            changed = changed.overridden(key, value)
        experiment = load_experiment(changed)
        moves = experiment.trainer.max_epochs > experiment.model["warmup_epochs"]
        assert moves or not experiment.derive.needs_alpha, name


def test_the_ranking_is_the_configuration_that_ranks(quality):
    configs = Path(__file__).parents[2] / "configs"
    changed = ConfigSource((configs / "dilation_digits.yaml",))
    for key, value in quality.METHODS["ranked"].items():
        changed = changed.overridden(key, value)
    one, other = (
        load_experiment(source).values for source in (changed, ConfigSource((configs / "dilation_ranked_digits.yaml",)))
    )
    assert one == other
