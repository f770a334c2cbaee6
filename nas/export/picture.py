"""A picture of an architecture: its choices in rows."""

from __future__ import annotations

import io
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from nas.genotype import Genotype

CHOSEN, OTHER, EDGE = (
    "#0072b2",
    "#eef1f4",
    "#7f8a94",
)  # told apart without colour too: chosen ones are dark with white text
ROW, COLUMN = 0.34, 1.45  # inches


def architecture_svg(genotype: Genotype) -> str:
    """The picture of :func:`draw_choices` as SVG text, the same for the same genotype."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "architecture", "svg.fonttype": "none"}):
        draw_choices(genotype).savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def draw_choices(genotype: Genotype) -> Figure:
    """A row for every choice and a box for every candidate; chosen ones are dark, with their probability.

    Candidates are known where the genotype has probabilities; otherwise only the chosen one is drawn.
    """
    rows = {name: _candidates(genotype, name) for name in genotype.choices}
    columns = max((len(row) for row in rows.values()), default=1)
    names = max((len(name) for name in rows), default=1) * 0.085 + 0.2
    width, height = names + columns * COLUMN + 0.1, max(1, len(rows)) * ROW + 0.1
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for i, (name, row) in enumerate(rows.items()):
        y = 0.05 + i * ROW
        axes.text(names - 0.1, y + ROW / 2, name, ha="right", va="center", fontsize=8)
        chosen = genotype.choices[name]
        for j, (label, probability) in enumerate(row.items()):
            picked = label == chosen if isinstance(chosen, str) else label in chosen
            box = FancyBboxPatch(
                (names + j * COLUMN, y + 0.04),
                COLUMN - 0.1,
                ROW - 0.08,
                boxstyle="round,pad=0,rounding_size=0.05",
                facecolor=CHOSEN if picked else OTHER,
                edgecolor=EDGE,
                linewidth=0.5,
            )
            axes.add_patch(box)
            said = label if len(label) <= 17 else label[:16] + "…"
            said += "" if probability is None else f"  {probability:.2f}"
            place = names + j * COLUMN + (COLUMN - 0.1) / 2
            axes.text(
                place, y + ROW / 2, said, ha="center", va="center", fontsize=6.5, color="white" if picked else "#222222"
            )
    return figure


def _candidates(genotype: Genotype, name: str) -> Mapping[str, float | None]:
    chosen = genotype.choices[name]
    labels = [chosen] if isinstance(chosen, str) else chosen
    known = genotype.probabilities.get(name, {})
    return dict(known) if all(label in known for label in labels) else dict.fromkeys(labels)
