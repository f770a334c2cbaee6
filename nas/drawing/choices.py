"""Draws the choices of an architecture in rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath

from nas.genotype import Genotype, labels_of

CHOSEN, OTHER, EDGE, INK = "#0072b2", "#eef1f4", "#7f8a94", "#222222"  # CHOSEN and OTHER also differ in brightness
WIDTH, FONT = 4.4, 9
"""Width of a picture in inches, size of its text in points. Half of a report, a phone, and a card of TensorBoard are about this wide."""
MAX_ROWS = 120
LINE, ROW, GAP, SIDE = 0.22, 0.3, 0.08, 0.1
"""In inches: heights of a name and of a row of boxes, distance between boxes, margin."""


def draw_choices(genotype: Genotype) -> Figure:
    """The name of every choice, and below it a box for every candidate with its probability. Chosen candidates are dark.

    Without probabilities, only chosen candidates have boxes. Choices after `MAX_ROWS` rows of boxes are left out, and the last line says
    how many.
    """
    rows = {name: _candidates(genotype, name) for name in genotype.choices}
    longest = max((text_width(text) for row in rows.values() for text in row.values()), default=1.0)
    columns = max(1, int((WIDTH - 2 * SIDE + GAP) / (longest + 2 * GAP)))
    box = (WIDTH - 2 * SIDE + GAP) / columns
    heights = {name: -(-len(row) // columns) for name, row in rows.items()}
    shown = [name for i, name in enumerate(rows) if sum(list(heights.values())[: i + 1]) <= MAX_ROWS]
    hidden = len(rows) - len(shown)
    height = sum(LINE + heights[name] * ROW for name in shown) + (LINE if hidden else 0) + GAP
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    top = 0.0
    for name in shown:
        axes.text(SIDE, top + LINE / 2 + 0.03, short(name, 52), va="center", fontsize=FONT, color=INK)
        chosen = labels_of(genotype.choices[name])
        for j, (label, text) in enumerate(rows[name].items()):
            middle = top + LINE + (j // columns + 0.5) * ROW
            left = SIDE + j % columns * box
            draw_box(axes, left, middle, box - GAP, ROW - 0.06, text, dark=label in chosen)
        top += LINE + heights[name] * ROW
    if hidden:
        axes.text(SIDE, top + LINE / 2, f"and {hidden} more choices", va="center", fontsize=FONT, color=INK)
    return figure


def draw_box(axes: Axes, left: float, middle: float, width: float, height: float, said: str, *, dark: bool) -> None:
    """Draws a rounded box with centered text, in the units of the axes."""
    box = FancyBboxPatch(
        (left, middle - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.05",
        facecolor=CHOSEN if dark else OTHER,
        edgecolor=EDGE,
        linewidth=0.5,
    )
    axes.add_patch(box)
    color = "white" if dark else INK
    axes.text(left + width / 2, middle, said, ha="center", va="center", fontsize=FONT, color=color)


def short(text: str, length: int) -> str:
    """A text of at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


@lru_cache(maxsize=4096)
def text_width(text: str) -> float:
    """The width in inches of a text of `FONT` points."""
    return float(TextPath((0, 0), text.replace("$", "S"), size=FONT).get_extents().x1) / 72 if text else 0.0


def _candidates(genotype: Genotype, name: str) -> Mapping[str, str]:
    """The text in the box of each label."""
    labels = labels_of(genotype.choices[name])
    known = genotype.probabilities.get(name, {})
    if all(label in known for label in labels):
        return {label: f"{short(label, 40)}  {probability:.2f}" for label, probability in known.items()}
    return {label: short(label, 40) for label in labels}
