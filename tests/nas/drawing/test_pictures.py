"""The rule for pictures that would show nothing: what is left out, and why."""

import pytest

from nas.drawing import distribution_pictures, probability_picture, search_pictures
from nas.drawing.pictures import SCORES, architecture_picture
from nas.genotype import Genotype
from nas.supernet.search_space import CellEdge

TWO = {"a": {"x": 0.5, "y": 0.5}}
FOUND = Genotype({"a": "x"}, probabilities=TWO)
FOUR = [{"a": "x"}, {"a": "y"}]


def rows(*probabilities):
    return [(10 * i, {"choice/a/x": p, "choice/a/y": 1 - p}) for i, p in enumerate(probabilities)]


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (rows(0.5, 0.6), ""),
        (rows(0.5, 0.6, 0.5), ""),  # that it returns does not matter
        (rows(0.9, 0.9, 0.9), "no probability changed by 0.01 or more"),
        (rows(0.5, 0.509), "no probability changed by 0.01 or more"),
        (rows(0.9), "only one moment was recorded"),
        ([], "no probability was recorded"),
        ([(1, {"arch/loss": 1.0}), (2, {"arch/loss": 2.0})], "no probability was recorded"),
    ],
)
def test_probabilities_over_time_must_change(history, reason):
    found = probability_picture(history, FOUND)
    assert found.reason == reason and (found.figure is None) == bool(reason)


@pytest.mark.parametrize(
    ("genotype", "cells", "reason"),
    [
        (FOUND, {}, ""),
        (Genotype({}), {}, "the network has no choices"),
        (Genotype({"a": "x"}), {}, "only the chosen candidates are known, and the table lists them"),
        (FOUND, {"cell": [CellEdge("0", "1", "x")]}, ""),
        (FOUND, {"cell": [CellEdge("0", "1", "")]}, "no edge of a cell has an operation"),
    ],
)
def test_an_architecture_must_have_something_that_is_not_chosen(genotype, cells, reason):
    found = architecture_picture(genotype, cells)
    assert found.reason == reason and (found.figure is None) == bool(reason)


def test_one_choice_that_changes_is_enough():
    history = [
        (i, {"choice/a/x": 0.5, "choice/a/y": 0.5, "choice/b/x": p, "choice/b/y": 1 - p})
        for i, p in ((0, 0.5), (1, 0.6))
    ]
    found = probability_picture(history, Genotype({"a": "x", "b": "x"}, probabilities={**TWO, "b": TWO["a"]}))
    assert found.figure is not None


def test_a_moment_that_does_not_list_an_architecture_is_no_change():
    history = moments(1.0, 1.0, 1.0)
    history[0]["most_probable"] = []
    found, _ = distribution_pictures(history, [], {})
    assert found.reason == "no probability changed by 0.01 or more"


def moments(*probabilities):
    return [
        {"batch": i, "most_probable": [{"choices": FOUR[0], "probability": p}]} for i, p in enumerate(probabilities)
    ]


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (moments(0.001, 0.002), ""),
        (moments(1.0, 1.0), "no probability changed by 0.01 or more"),
        (moments(0.002), "only one moment was recorded"),
    ],
)
def test_most_probable_architectures_must_change(history, reason):
    found, scores = distribution_pictures(history, [], {})
    assert found.reason == reason and (found.figure is None) == bool(reason)
    assert (scores.tag, scores.figure, scores.reason) == (SCORES, None, "no architecture was scored")


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([1.0, 2.0], ""),
        ([1.0], "only one architecture was scored"),
        ([2.0, 2.0], "all 2 scored architectures have a loss of 2"),
    ],
)
def test_scores_must_differ(losses, reason):
    scored = [{"choices": choices, "loss": loss} for choices, loss in zip(FOUR, losses, strict=False)]
    _, found = distribution_pictures(moments(1.0), scored, {})
    assert found.reason == reason and (found.figure is None) == bool(reason)


def test_every_search_has_the_same_pictures():
    assert [found.tag for found in search_pictures([], FOUND, {})] == ["search/architecture", "search/probabilities"]
