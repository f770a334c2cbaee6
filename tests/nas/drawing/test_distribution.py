"""Pictures of a distribution: what their axes hold."""

import math

import pytest

from nas.drawing import draw_most_probable, draw_scores
from nas.drawing.distribution import architecture_labels

ARCHITECTURES = [{"a": "x", "b": "y"}, {"a": "x", "b": "z"}, {"a": "w"}]


def test_labels_tell_each_architecture_from_the_first():
    assert architecture_labels(ARCHITECTURES) == ["x y", "b=z", "a=w, b=-"]
    assert architecture_labels([]) == []


def test_a_line_for_each_architecture_that_is_most_probable_at_the_end():
    moments = [
        {
            "batch": 10,
            "most_probable": [
                {"choices": ARCHITECTURES[2], "probability": 0.5},
                {"choices": ARCHITECTURES[1], "probability": 0.25},
            ],
        },
        {
            "batch": 20,
            "most_probable": [
                {"choices": ARCHITECTURES[0], "probability": 0.75},
                {"choices": ARCHITECTURES[1], "probability": 0.125},
            ],
        },
    ]
    axes = draw_most_probable(moments).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert list(lines) == ["1: x y", "2: b=z"]
    assert lines["2: b=z"] == [[10, 0.25], [20, 0.125]]
    assert lines["1: x y"][1] == [20, 0.75] and math.isnan(lines["1: x y"][0][1])  # not listed at first


@pytest.mark.parametrize("macs", [[0, 100, 200], [100, 100, 100], [None, None, None]])
def test_a_point_for_each_score_and_marks(macs):
    scored = [{"choices": c, "loss": i + 1.0, "macs": macs[i]} for i, c in enumerate(ARCHITECTURES)]
    axes = draw_scores(scored, {"chosen": ARCHITECTURES[1], "runner-up": {"a": "never scored"}}).axes[0]
    points, mark = (collection.get_offsets().tolist() for collection in axes.collections)
    places = macs if macs[0] != macs[1] else [1, 2, 3]
    assert points == [[place, i + 1.0] for i, place in enumerate(places)] and mark == [points[1]]
    assert axes.get_xlabel().startswith("MACs" if macs[0] != macs[1] else "order of evaluation")
