from pathlib import Path

import numpy as np
import pytest

from nas.genotype import Genotype
from nas.runs.options import ConfigSource

CONFIG = Path(__file__).parents[2] / "configs/select_features.yaml"


@pytest.fixture(scope="module")
def selection(load_file):
    return load_file("examples/feature_selection/feature_selection.py")


def test_the_rivals_find_what_matters(selection):
    """The target is the sign of two of ten features' sum."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((400, 10))
    y = (x[:, 3] + x[:, 7] > 0).astype(int)
    assert selection.by_l1(x, y, 2) == [3, 7]
    assert selection.by_mutual_information(x, y, 2, seed=0) == [3, 7]
    assert len(selection.by_l1(x, y, 6)) == 6 and {3, 7} < set(selection.by_l1(x, y, 6))


def test_an_architecture_with_other_features(selection):
    genotype = Genotype({"features.0": "keep", "features.1": "drop", "features.2": "keep", "width": "8"})
    assert selection.chosen(genotype) == [0, 2]
    other = selection.reading(genotype, [1])
    assert selection.chosen(other) == [1] and other.choices["width"] == "8" and len(other.choices) == 4


def test_the_table_says_what_the_rows_say(selection):
    rows = [selection.Row("a", 8, 0, 0.9), selection.Row("a", 10, 1, 1.0), selection.Row("b", 8, 2, 0.5)]
    lines = selection.table(rows).splitlines()
    assert lines[2] == "| a | 9.0 ± 1.4 | 6% | 0.950 ± 0.071 |"
    assert lines[3] == "| b | 8.0 ± 0.0 | 25% | 0.500 ± 0.000 |"


@pytest.mark.slow
def test_gates_find_measurements_among_decoys(selection, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gates, information, l1, everything = selection.compare(ConfigSource((CONFIG,)), 0, tmp_path)
    assert gates.num_features == information.num_features == l1.num_features < 15
    assert gates.num_decoys <= 1 and everything.num_decoys == 100
    assert gates.test > 0.95  # 169 samples: two standard errors below what three seeds measured
