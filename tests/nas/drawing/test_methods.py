"""Charts of methods: marks, names, and colors."""

from nas.drawing.methods import draw_bands, draw_costs
from nas.drawing.svg import svg_text


def test_one_epoch_is_a_mark_and_names_are_no_mathematics():
    names = ["$\\oops$", "b"]
    (figure,) = draw_bands({name: [(1, 0.5, 0.1)] for name in names}, names, "accuracy")
    assert [line.get_marker() for line in figure.axes[0].lines] == ["o", "o"]
    assert ">$\\oops$<" in svg_text(figure)
    (figure,) = draw_bands({name: [(1, 0.5, 0.1), (2, 0.6, 0.0)] for name in names}, names, "accuracy")
    assert [line.get_marker() for line in figure.axes[0].lines] == ["None", "None"]


def test_a_method_has_the_same_color_in_every_chart():
    names = [f"m{i}" for i in range(10)]
    rows = [{"method": name, "cost": 1.0, "mean": 0.5, "std": None} for name in names]
    rows[0]["cost"] = None  # its place is kept
    bands = draw_bands({name: [(1, 0.5, 0.0)] for name in names[1:]}, names, "accuracy")
    lines = {line.get_label(): line.get_color() for figure in bands for line in figure.axes[0].lines}
    costs = draw_costs(rows, "accuracy", [(1, 0.4), (2, 0.5)])
    points = {item.get_label(): item.lines[0].get_color() for figure in costs for item in figure.axes[0].containers}
    assert points == lines and len(lines) == 9 and lines["m1"] == lines["m7"] != lines["m2"]
    assert [len(figure.axes[0].containers) for figure in costs] == [8, 1]
