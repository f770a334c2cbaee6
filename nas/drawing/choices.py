"""Draws the choices of an architecture in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from nas.genotype import Genotype, labels_of

CHOSEN, OTHER, EDGE, INK = "#0072b2", "#eef1f4", "#7f8a94", "#222222"  # CHOSEN and OTHER also differ in brightness
ROW, COLUMN = 0.34, 1.45
"""In inches: height of a row, width of a candidate."""
MAX_ROWS = 120


def draw_choices(genotype: Genotype, names: Sequence[str] | None = None) -> Figure:
    """A row for every choice, with a box for every candidate and its probability. Chosen candidates are dark.

    Without probabilities, only chosen candidates have boxes. Draws the choices `names` (None: all), but at most `MAX_ROWS`.
    """
    shown = list(genotype.choices if names is None else names)[:MAX_ROWS]
    rows = {name: _candidates(genotype, name) for name in shown}
    columns = max((len(row) for row in rows.values()), default=1)
    margin = max((len(name) for name in rows), default=1) * 0.085 + 0.2
    width, height = margin + columns * COLUMN + 0.1, max(1, len(rows)) * ROW + 0.1
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for i, (name, row) in enumerate(rows.items()):
        middle = 0.05 + (i + 0.5) * ROW
        axes.text(margin - 0.1, middle, name, ha="right", va="center", fontsize=8, color=INK)
        chosen = labels_of(genotype.choices[name])
        for j, (label, probability) in enumerate(row.items()):
            said = short(label, 17) + ("" if probability is None else f"  {probability:.2f}")
            draw_box(axes, margin + j * COLUMN, middle, COLUMN - 0.1, ROW - 0.08, said, dark=label in chosen)
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
    axes.text(left + width / 2, middle, said, ha="center", va="center", fontsize=6.5, color=color)


def short(text: str, length: int) -> str:
    """A text of at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _candidates(genotype: Genotype, name: str) -> Mapping[str, float | None]:
    labels = labels_of(genotype.choices[name])
    known = genotype.probabilities.get(name, {})
    return dict(known) if all(label in known for label in labels) else dict.fromkeys(labels)
