"""Curves: what their lines hold, and which are left out."""

import pytest

from nas.report.curves import curve_pictures

SEARCH = [
    (10, {"weight/loss": 2.0, "weight/accuracy": 0.1, "search/tau": 1.0}),
    (20, {"weight/loss": 1.5, "weight/accuracy": 0.4, "arch/loss": 1.75, "search/tau": 1.0}),
    (30, {"weight/loss": 1.0, "weight/accuracy": 0.5, "arch/loss": 1.25, "search/tau": 1.0}),
]


def lines(picture):
    return {line.get_label(): line.get_xydata().tolist() for line in picture.figure.axes[0].lines}


def test_a_search_has_a_line_for_each_split():
    pictures = {picture.tag: picture for picture in curve_pictures(SEARCH)}
    assert lines(pictures["loss"]) == {
        "arch split (validation)": [[20, 1.75], [30, 1.25]],
        "train split": [[10, 2.0], [20, 1.5], [30, 1.0]],
    }
    assert list(lines(pictures["accuracy"])) == ["train split"]
    left_out = {picture.tag: picture.reason for picture in pictures.values() if picture.figure is None}
    assert left_out == {"accuracy of the arch split": "the search did not measure it", "tau": "1 throughout"}


def test_a_retraining_has_its_training_data_and_says_that_the_test_set_has_no_curve():
    history = [(5, {"train/loss": 2.0, "lr/weight": 0.1}), (10, {"train/loss": 1.0, "lr/weight": 0.1})]
    (picture,) = curve_pictures(history)
    assert lines(picture) == {"training data": [[5, 2.0], [10, 1.0]]}
    assert "test set is read once" in picture.caption


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0], "only one value was measured"),
        ([float("nan")] * 2, "no finite value was measured"),
        ([3.0, 3.0], "3 throughout"),
    ],
)
def test_a_curve_needs_two_values(values, reason):
    (picture,) = curve_pictures([(i, {"train/loss": value}) for i, value in enumerate(values)])
    assert picture.figure is None and picture.reason == reason


def test_a_line_of_one_point_is_a_mark():
    loss, *_ = curve_pictures([*SEARCH[:1], SEARCH[1]])
    assert [line.get_marker() for line in loss.figure.axes[0].lines] == ["o", "None"]


def test_every_constant_value_is_named():
    history = [(i, {"arch/loss": float("nan"), "weight/loss": 3.0}) for i in range(2)]
    assert [picture.reason for picture in curve_pictures(history)] == ["3 throughout"]
    history = [(i, {"arch/loss": 2.0, "weight/loss": 3.0}) for i in range(2)]
    assert [picture.reason for picture in curve_pictures(history)] == ["2 and 3 throughout"]
