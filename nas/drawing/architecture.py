"""Pictures of architectures as figures and as DOT text: cells are graphs, other choices are rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from nas.drawing.choices import CHOSEN, EDGE, FONT, INK, WIDTH, draw_box, draw_choices, short, text_width
from nas.genotype import Genotype
from nas.supernet.search_space import CellEdge

Cells = Mapping[str, Sequence[CellEdge]]

MAX_LABEL = 16
STEP, BOX, HALF, DEPTH = 0.5, 0.66, 0.13, 0.1
"""In inches: distance of neighboring nodes, width and half the height of a node, depth of an arc per spanned node at the left."""


def draw_architecture(genotype: Genotype, cells: Cells) -> Figure:
    """An arc diagram for every cell; without cells, the choices in rows.

    The nodes of a cell are in a column, in topological order. An edge is an arc at the right with its operation at the tip; arcs without an
    operation are at the left. Arcs of equal length have their tips one below the other, and longer arcs reach further, so labels do not
    overlap.

    Args:
        genotype: The architecture.
        cells: The cells of the architecture, from :meth:`nas.SearchSpace.cells`.
    """
    if not cells:
        return draw_choices(genotype)
    ranks = {name: {node: i for i, node in enumerate(_ordered(edges))} for name, edges in cells.items()}
    spans = [(ranks[name][e.target] - ranks[name][e.source], e.label) for name, edges in cells.items() for e in edges]
    longest = max((text_width(short(label, MAX_LABEL)) for _, label in spans), default=0.0)
    reach = longest / 2 + 0.05  # per spanned node, so that labels at one height are side by side
    left = 0.2 + DEPTH * max((span for span, label in spans if not label), default=0)
    right = max((span for span, label in spans if label), default=0) * reach + reach + 0.1
    heights = {name: 0.4 + len(nodes) * STEP for name, nodes in ranks.items()}
    width, height = max(WIDTH, left + BOX + right), sum(heights.values())
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    top = 0.0
    for name, edges in cells.items():
        axes.text(0.1, top + 0.18, name, fontsize=FONT, fontweight="bold", color=INK, va="center")
        _draw_cell(axes, edges, ranks[name], left, top + 0.4, reach)
        top += heights[name]
    return figure


def _ordered(edges: Sequence[CellEdge]) -> list[str]:
    """The nodes in topological order."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for node in dict.fromkeys(node for edge in edges for node in edge[:2]):
        sorter.add(node, *[edge.source for edge in edges if edge.target == node])
    return list(sorter.static_order())


def _draw_cell(
    axes: Axes, edges: Sequence[CellEdge], ranks: Mapping[str, int], left: float, top: float, reach: float
) -> None:
    for edge in edges:
        span, labeled = ranks[edge.target] - ranks[edge.source], bool(edge.label)
        start, end = (top + HALF + ranks[node] * STEP for node in (edge.source, edge.target))
        side, bend = (left + BOX, span * reach) if labeled else (left, -span * DEPTH)
        if span == 1:
            side, bend, start, end = left + BOX / 2, 0.0, start + HALF, end - HALF
        else:
            start, end = start + HALF / 2, end - HALF / 2
        middle = (start + end) / 2
        path = Path([(side, start), (side + 2 * bend, middle), (side, end)], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        color = CHOSEN if labeled else EDGE
        arrow = FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=8, color=color, linewidth=1, zorder=1)
        axes.add_patch(arrow)
        if labeled:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            place, alignment = (side + 0.08, "left") if span == 1 else (side + bend, "center")
            text = short(edge.label, MAX_LABEL)
            axes.text(place, middle, text, ha=alignment, va="center", fontsize=FONT, color=INK, bbox=box)
    for node, rank in ranks.items():
        draw_box(axes, left, top + HALF + rank * STEP, BOX, 2 * HALF, short(node, 8), dark=False)


def architecture_dot(genotype: Genotype, cells: Cells) -> str:
    """The architecture in the DOT language of Graphviz: a cluster for every cell; without cells, a chain of choices."""
    lines = ["digraph architecture {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    if cells:
        for i, (name, edges) in enumerate(cells.items()):
            lines += [f"  subgraph cluster_{i} {{", f"    label={_quoted(name)};"]
            for edge in edges:
                ends = f"{_quoted(f'{name}/{edge.source}')} -> {_quoted(f'{name}/{edge.target}')}"
                lines.append(f"    {ends} [label={_quoted(edge.label)}];")
            for node in dict.fromkeys(node for edge in edges for node in (edge.source, edge.target)):
                lines.append(f"    {_quoted(f'{name}/{node}')} [label={_quoted(node)}];")
            lines.append("  }")
    else:
        rows = genotype.rows()
        lines += [f"  {_quoted(name)} [label={_quoted(f'{name}: {chosen}')}];" for name, chosen, _ in rows]
        lines += [f"  {_quoted(a)} -> {_quoted(b)};" for a, b in pairwise(genotype.choices)]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
