"""Pictures of architectures: everything is on them, and no text lies on another."""

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nas.drawing import architecture_dot, draw_architecture, draw_heat_map, svg_text
from nas.drawing.choices import MAX_ROWS
from nas.genotype import Genotype
from search_spaces.darts import DARTS_V1, DARTS_V2, Darts
from search_spaces.nasbench201 import NASBench201
from search_spaces.partial_channels import PartialChannels

CELLS = {
    "darts v1": (Darts(), DARTS_V1),
    "darts v2": (Darts(), DARTS_V2),
    "partial channels": (PartialChannels(Darts()), DARTS_V2),
    "nasbench201": (
        NASBench201(),
        "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    ),
    "nasbench201, sparse": (NASBench201(), "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"),
    "nasbench201, empty": (NASBench201(), "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"),
}


def rows(num_choices, num_labels=5, chosen=2):
    names = {
        f"layer{i}.conv": {f"dilation_{2**j}": 0.1 + 0.05 * j for j in range(num_labels)} for i in range(num_choices)
    }
    return Genotype({name: list(row)[chosen] for name, row in names.items()}, probabilities=names)


def assert_legible(figure, smallest=8.25):
    """No text on another, none outside, none smaller than `smallest` points (11 CSS pixels)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for axes in figure.axes for text in axes.texts]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    assert texts and all(text.get_fontsize() >= smallest for text in texts)
    for (a, box), (b, other) in combinations(zip(texts, boxes, strict=True), 2):
        inside = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
        assert inside[0] <= 0.5 or inside[1] <= 0.5, f"{a.get_text()!r} on {b.get_text()!r}"
    width, height = canvas.get_width_height()
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    return [text.get_text() for text in texts]


@pytest.mark.parametrize("name", CELLS)
def test_cells_are_graphs(name):
    space, text = CELLS[name]
    genotype = space.parse_genotype(text)
    cells = space.cells(genotype.choices)
    said = assert_legible(draw_architecture(genotype, cells))
    ops = [edge.label for edges in cells.values() for edge in edges if edge.label]
    published = [op for op in re.findall(r"[a-z_]+_[0-9x]+|skip_connect", text)]
    assert sorted(ops) == sorted(published)  # every operation of the published text, and no other
    assert sorted(said) == sorted(
        ops + list(cells) + [n for e in cells.values() for n in {x for edge in e for x in edge[:2]}]
    )


def test_edges_of_a_cell_are_those_of_the_notation():
    space = Darts()
    cells = space.cells(space.parse_genotype(DARTS_V2).choices)
    normal = {(edge.source, edge.target, edge.label) for edge in cells["normal"] if edge.label}
    assert ("c_{k-2}", "0", "sep_conv_3x3") in normal and ("0", "3", "dil_conv_3x3") in normal and len(normal) == 8
    assert {edge.source for edge in cells["reduce"] if edge.target == "c_{k}"} == {"0", "1", "2", "3"}


@pytest.mark.parametrize("num_choices", [1, 3, 40])
def test_choices_are_rows(num_choices):
    genotype = rows(num_choices)
    said = assert_legible(draw_architecture(genotype, {}))
    assert len(said) == 6 * num_choices and said.count("dilation_4  0.20") == num_choices


def test_a_genotype_by_hand_has_no_candidates_but_the_chosen():
    said = assert_legible(draw_architecture(Genotype({"a": "x", "edges": ["p", "q"]}), {}))
    assert said == ["a", "x", "edges", "p", "q"]


def test_long_names_are_cut():
    assert_legible(draw_architecture(Genotype({"stage1.layer2": "k" * 64}), {}))


def test_a_heat_map_has_a_row_for_every_candidate():
    history = [(10 * i, rows(8).probabilities) for i in range(5)]
    figure = draw_heat_map(history)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()][:2] == ["dilation_1", "dilation_2"]
    assert [text.get_text() for text in figure.texts] == [f"layer{i}.conv" for i in range(8)]
    values = axes.images[0].get_array()
    assert values.shape == (48, 5)  # 40 candidates, 8 names
    assert [row for row in range(48) if values.mask[row].all()] == list(range(0, 48, 6))
    assert values[3, 0] == pytest.approx(0.2)


def test_large_pictures_end_with_a_line_that_says_what_is_missing():
    many = rows(30)
    figure = draw_heat_map([(i, many.probabilities) for i in range(2)])
    labels = figure.axes[0].get_yticklabels()
    assert len(labels) == MAX_ROWS and "and 30 more candidates" in {text.get_text() for text in figure.texts}
    said = assert_legible(draw_architecture(rows(70), {}))
    assert said.count("dilation_4  0.20") == 60 and said[-1] == "and 10 more choices"  # two rows of boxes each


def test_svg_is_the_same_every_time_and_well_formed():
    first, second = (svg_text(draw_architecture(rows(2), {})) for _ in range(2))
    assert first == second and "dilation_4" in first
    ElementTree.fromstring(first)


def test_dot_says_the_same_and_nothing_ends_its_strings():
    space, text = CELLS["nasbench201"]
    genotype = space.parse_genotype(text)
    dot = architecture_dot(genotype, space.cells(genotype.choices))
    assert dot.count("->") == 6 and '"cell/0" -> "cell/1" [label="nor_conv_3x3"];' in dot
    chain = architecture_dot(Genotype({"a": 'x"]; evil [a=b', "b": "y\\", "c": ["p", "q"]}), {})
    assert chain.count("->") == 2 and 'label="c: p, q"' in chain
    for line in chain.splitlines():
        assert len(re.findall(r'(?<!\\)(?:\\\\)*"', line)) % 2 == 0, line
