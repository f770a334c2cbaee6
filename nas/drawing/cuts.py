"""Draws what a smaller network keeps of each group of units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nas.drawing.choices import CHOSEN, EDGE, FONT, INK, MAX_ROWS, OTHER, WIDTH, short

ROW, BAR = 0.42, 0.16
"""In inches: height of a row, height of a bar."""


def draw_cuts(cuts: Sequence[Mapping[str, Any]]) -> Figure:
    """A bar for each group of units, dark for the share that is kept; a block has one unit.

    Groups after `MAX_ROWS` are left out, and the last line says how many.

    Args:
        cuts: For each group its ``name``, and the numbers ``kept`` and ``all`` of units.
    """
    shown = cuts[:MAX_ROWS]
    hidden = len(cuts) - len(shown)
    height = max(1, len(shown) + bool(hidden)) * ROW + 0.1
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    left, full = 0.1, WIDTH - 0.2
    for i, cut in enumerate(shown):
        top = 0.05 + i * ROW
        kept, units = cut["kept"], cut["all"]
        axes.text(left, top + 0.1, short(cut["name"], 40), ha="left", va="center", fontsize=FONT, color=INK)
        axes.text(left + full, top + 0.1, _words(kept, units), ha="right", va="center", fontsize=FONT, color=INK)
        for width, color in ((full, OTHER), (full * kept / units, CHOSEN)):
            bar = Rectangle((left, top + 0.2), width, BAR, facecolor=color, edgecolor=EDGE, linewidth=0.5)
            axes.add_patch(bar)
    if hidden:
        axes.text(left, height - ROW / 2, f"and {hidden} more", va="center", fontsize=FONT, color=INK)
    return figure


def _words(kept: int, units: int) -> str:
    if units == 1:
        return "block kept" if kept else "block dropped"
    return f"{kept} of {units}"
