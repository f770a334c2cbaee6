import pytest
from matplotlib.colors import to_hex

from nas.drawing import draw_cuts, svg_text
from nas.drawing.choices import CHOSEN, MAX_ROWS


def test_the_dark_part_of_a_bar_is_the_share_that_is_kept():
    cuts = [
        {"name": f"layer{i}", "kept": kept, "all": of}
        for i, (kept, of) in enumerate([(24, 32), (0, 1), (1, 1), (3, 8)])
    ]
    figure = draw_cuts(cuts)
    bars = figure.axes[0].patches
    dark = [bar.get_width() for bar in bars if to_hex(bar.get_facecolor()) == CHOSEN]
    full = max(bar.get_width() for bar in bars)
    assert dark == pytest.approx([share * full for share in (0.75, 0, 1, 0.375)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["layer0", "24 of 32", "layer1", "block dropped", "layer2", "block kept", "layer3", "3 of 8"]


def test_a_picture_of_many_groups_and_long_names_has_a_limit():
    many = [{"name": "x" * 99, "kept": 1, "all": 2}] * (MAX_ROWS + 5)
    text = svg_text(draw_cuts(many))
    assert text.count("1 of 2") >= MAX_ROWS and "x" * 45 not in text
    assert len(draw_cuts(many).axes[0].patches) == 2 * MAX_ROWS
