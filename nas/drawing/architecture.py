"""Pictures of architectures as figures and as DOT text: cells are graphs, other choices are rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from nas.drawing.choices import CHOSEN, EDGE, INK, draw_box, draw_choices, short
from nas.genotype import Genotype
from nas.supernet.search_space import CellEdge

Cells = Mapping[str, Sequence[CellEdge]]

COLUMN, RISE, BOX = 1.25, 0.4, 0.62
"""In inches: distance of neighboring nodes, height of an arc per spanned node, width of a node."""
BELOW = 0.16
"""In inches: depth of an arc per spanned node, for arcs without an operation, which run below the nodes."""


def draw_architecture(genotype: Genotype, cells: Cells) -> Figure:
    """An arc diagram for every cell; without cells, the choices in rows.

    The nodes of a cell are in a row, in topological order. An edge is an arc with its operation at the top. Arcs of equal length have their
    tops side by side, and longer arcs are higher, so labels do not overlap.

    Args:
        genotype: The architecture.
        cells: The cells of the architecture, from :meth:`nas.SearchSpace.cells`.
    """
    if not cells:
        return draw_choices(genotype)
    ranks = {name: {node: float(i) for i, node in enumerate(_ordered(edges))} for name, edges in cells.items()}
    width = max(2, *map(len, ranks.values())) * COLUMN  # a cell may have no edges
    spans = {name: [_span(edge, ranks[name]) for edge in edges] for name, edges in cells.items()}
    above = {name: max(spans[name], default=0.0) * RISE + 0.55 for name in cells}
    heights = {name: above[name] + 0.35 + len(nodes) * BELOW for name, nodes in ranks.items()}
    height = sum(heights.values())
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    top = 0.0
    for name, edges in cells.items():
        axes.text(0.1, top + 0.18, name, fontsize=9, fontweight="bold", color=INK, va="center")
        _draw_cell(axes, edges, ranks[name], top + above[name])
        top += heights[name]
    return figure


def _ordered(edges: Sequence[CellEdge]) -> list[str]:
    """The nodes in topological order."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for node in dict.fromkeys(node for edge in edges for node in edge[:2]):
        sorter.add(node, *[edge.source for edge in edges if edge.target == node])
    return list(sorter.static_order())


def _span(edge: CellEdge, ranks: Mapping[str, float]) -> float:
    return ranks[edge.target] - ranks[edge.source]


def _draw_cell(axes: Axes, edges: Sequence[CellEdge], ranks: Mapping[str, float], line: float) -> None:
    for edge in edges:
        span = _span(edge, ranks)
        left = ranks[edge.source] * COLUMN + COLUMN / 2 + (BOX / 2 if span == 1 else BOX / 4)
        right = ranks[edge.target] * COLUMN + COLUMN / 2 - (BOX / 2 if span == 1 else BOX / 4)
        up = bool(edge.label)
        rise = 0.0 if span == 1 else span * (RISE if up else -BELOW)
        edge_line = line if span == 1 else line - (0.13 if up else -0.13)
        middle = (left + right) / 2
        path = Path(
            [(left, edge_line), (middle, edge_line - 2 * rise), (right, edge_line)],
            [Path.MOVETO, Path.CURVE3, Path.CURVE3],
        )
        color = CHOSEN if up else EDGE
        axes.add_patch(
            FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=8, color=color, linewidth=1, zorder=1)
        )
        if up:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            top = edge_line - rise - (0.16 if span == 1 else 0.0)
            axes.text(middle, top, short(edge.label, 18), ha="center", va="center", fontsize=6.5, color=INK, bbox=box)
    for node, rank in ranks.items():
        draw_box(axes, rank * COLUMN + (COLUMN - BOX) / 2, line, BOX, 0.26, short(node, 10), dark=False)


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
