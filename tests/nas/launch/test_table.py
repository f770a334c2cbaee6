"""The table of a launch, against enumeration, scipy, and other packages' arithmetic."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas.benchmark import Table
from nas.launch.comparison import best_of, paired, random_search
from nas.launch.table import cells, numbers, summarised

pairs = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=7)


@given(pairs, st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_random_search_is_the_mean_over_all_samples(found, num):
    num = min(num, len(found))
    validation, worth = zip(*found, strict=True)
    values = []
    for sample in itertools.combinations(range(len(found)), num):
        best = max(validation[i] for i in sample)
        values.append(statistics.fmean(worth[i] for i in sample if validation[i] == best))
    # float64: a sum of at most 35 numbers up to 1
    assert best_of(validation, worth, num) == pytest.approx(statistics.fmean(values), abs=1e-12)


def test_the_error_of_random_search_is_that_of_a_mean_for_one_training():
    worth = list(np.random.default_rng(0).normal(size=20))
    chance = random_search(list(range(20)), worth, 0.3)
    assert chance["num"] == 1 and chance["mean"] == pytest.approx(statistics.fmean(worth))
    assert chance["error"] == pytest.approx(stats.sem(worth))  # the jackknife of a mean is its standard error
    between = random_search(list(range(20)), worth, 2.25)["mean"]
    assert between == pytest.approx(0.75 * best_of(range(20), worth, 2) + 0.25 * best_of(range(20), worth, 3))
    assert random_search([1, 2], [5.0, 7.0], 9) == {"num": 2, "mean": 7.0, "error": None}
    every = random_search([1, 2, 3, 4, 5], [0.0, 0.0, 0.0, 6.0, 7.0], 9)  # the best is found, unless it is left out
    assert (every["num"], every["mean"]) == (5, 7.0) and every["error"] == pytest.approx(math.sqrt(4 * 4 / 25))


def trial(method, seed, **figures):
    return {"name": f"{method}_{seed}", "method": method, "seed": seed, "model.tau": method, **figures}


def finished(method, seed, test, **figures):
    return trial(method, seed, arch=1 - test, test=test, search_seconds=30.0, train_seconds=10.0, **figures)


def test_the_rows_are_means_and_the_tests_are_those_of_scipy():
    first, second = [0.9, 0.8, 0.7], [0.95, 0.84, 0.8, 0.1]
    found = [finished("a", seed, value, params=100, macs=7) for seed, value in enumerate(first)]
    found += [finished("b", seed, value, params=100 + seed) for seed, value in enumerate(second)]
    found.append(trial("b", 9))
    table = Table({}, "accuracy", seconds=99.0)
    for i in range(6):
        for part in ("validation", "test"):
            table.add({"x": str(i)}, part, 0, i / 10)
    random = {"num": 6, "test": {"mean": 0.25, "std": 0.187}, "seconds_per_training": 99.0}
    summary = {"metric": "accuracy", **summarised(found, {}, random, table)}
    a, b = summary["settings"]
    assert (a["method"], a["num"], b["num"], b["num_finished"]) == ("a", 3, 5, 4)
    assert (a["mean"], a["std"]) == pytest.approx((np.mean(first), np.std(first, ddof=1)))
    assert a["settings"] == {"model.tau": "a"} and a["cost"] == 3.0 and a["macs"] == 7 and b["params"] == 101.5
    assert "macs" not in b and "latency_ms" not in a and "paired" not in a
    test = stats.ttest_rel(second[:3], first)
    assert b["paired"]["p_value"] == pytest.approx(test.pvalue) and b["paired"]["num"] == 3
    low, high = test.confidence_interval(0.95)
    width = b["paired"]["error"] * stats.t.ppf(0.975, 2)
    assert (b["paired"]["mean"] - width, b["paired"]["mean"] + width) == pytest.approx((low, high))
    best_of_three = sum(math.comb(i, 2) * i / 10 for i in range(6)) / math.comb(6, 3)
    assert a["random_search"]["mean"] == pytest.approx(best_of_three)
    assert a["difference"]["mean"] == pytest.approx(np.mean(first) - best_of_three)
    assert a["difference"]["error"] == pytest.approx(math.hypot(stats.sem(first), a["random_search"]["error"]))
    head, rows = cells(summary)
    assert head[:3] == ["method", "n", "test accuracy"] and "latency, ms" not in head and "minus a" in head
    assert [row[:3] for row in rows] == [
        ["a", "3", "0.8000 ± 0.1000"],
        ["b", "4 of 5", f"{np.mean(second):.4f} ± {np.std(second, ddof=1):.4f}"],
        ["random architectures", "6", "0.2500 ± 0.1870"],
    ]
    assert numbers(summary)[1]["paired_p_value"] == b["paired"]["p_value"]


def test_the_best_is_chosen_without_the_test_set():
    found = [
        trial("own", 0, arch=0.5, test=0.9, search_seconds=1.0),
        trial("own", 1, arch=0.6, test=0.7, search_seconds=3.0),
        trial("own", 2),
    ]
    (row,) = summarised(found, {}, None)["settings"]
    assert row["best"]["name"] == "own_1" and row["mean"] == pytest.approx(0.8) and row["search_seconds"] == 2.0
    assert (row["num"], row["num_finished"]) == (3, 2) and "cost" not in row


def test_what_few_seeds_leave_undefined_is_empty():
    nothing = summarised([trial("a", 0), trial("b", 0)], {"a_0": "failed"}, None)
    assert cells(nothing) == (["method", "n"], [["a", "0 of 1"], ["b", "0 of 1"]])
    one = summarised([finished("a", 0, 0.5), finished("b", 0, 0.6)], {}, None)["settings"][1]
    assert one["std"] is None and one["paired"]["mean"] == pytest.approx(0.1) and one["paired"]["error"] is None
    assert paired({0: 1.0}, {1: 1.0}) == {"num": 0, "mean": None, "error": None, "p_value": None}
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})["p_value"] is None  # no variance, so no test
    float32 = [{seed: float(np.float32((x - 5 * seed) / 360)) for seed in (0, 1)} for x in (349, 101)]
    assert paired(*float32)["error"] > 0 and paired(*float32)["p_value"] is None  # equal but for rounding
    assert paired({0: 0.9, 1: 0.8001}, {0: 0.7, 1: 0.6})["p_value"] is not None


def test_the_best_is_the_lowest_of_an_error():
    found = [finished("a", seed, value) for seed, value in enumerate((0.3, 0.1, 0.2))]
    found = [{**row, "arch": row["test"]} for row in found]
    table = Table({}, "mse", higher_is_better=False)
    for i in range(6):
        for part in ("validation", "test"):
            table.add({"x": str(i)}, part, 0, i / 10)
    random = {"num": 6, "test": {"mean": 0.25, "std": None}, "seconds_per_training": 10.0}
    (row,) = summarised(found, {}, random, table, higher_is_better=False)["settings"]
    assert row["best"]["name"] == "a_1"
    lowest_of_three = sum(math.comb(5 - i, 2) * i / 10 for i in range(6)) / math.comb(6, 3)
    assert row["random_search"]["mean"] == pytest.approx(lowest_of_three)


def test_costs_that_some_trials_lack_are_missing():
    found = [finished("a", 0, 0.5, params=3, latency_ms=2.0), finished("a", 1, 0.5, params=5)]
    (row,) = summarised(found, {}, None)["settings"]
    assert row["params"] == 4 and "latency_ms" not in row


def test_a_trial_without_a_finite_metric_is_counted_as_not_finished():
    found = [trial("a", 0, search_seconds=1.0), trial("a", 1, arch=0.5, search_seconds=2.0)]
    (row,) = summarised(found, {}, None)["settings"]
    assert (row["num"], row["num_finished"], row["mean"]) == (2, 1, 0.5)
    (row,) = summarised([trial("a", 0, test=0.5, search_seconds=1.0)], {}, None)["settings"]  # no arch metric
    assert row["mean"] == 0.5 and row["best"] == {}
    empty = Table({}, "accuracy")
    random = {"num": 1, "test": {"mean": 0.25, "std": None}, "seconds_per_training": 10.0}
    (row,) = summarised([finished("a", 0, 0.5)], {}, random, empty)["settings"]
    assert "difference" not in row
    empty.add({"x": "0"}, "validation", 0, 0.5)
    empty.add({"x": "0"}, "test", 0, 0.5)
    (row,) = summarised([trial("a", 0, arch=0.5, search_seconds=1.0)], {}, random, empty)["settings"]
    assert row["cost"] == 0.1 and "difference" not in row  # an arch metric is not compared with test metrics
