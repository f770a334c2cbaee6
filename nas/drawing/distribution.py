"""Draws how probability concentrates on architectures, and the scores that decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nas.drawing.choices import FONT, WIDTH, short
from nas.genotype import key_of

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008
STYLES = ("-", "--", ":", "-.")
MAX_LABEL = 44
MAX_LINES = 8
"""Largest number of lines in a chart whose colors and styles can be distinguished."""

Moments = Sequence[Mapping[str, Any]]
"""In chronological order: ``batch``, and ``most_probable`` with the choices and probability of architectures."""


def architecture_labels(architectures: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short text for each: all values of the first one, and of the others the values that differ from it."""
    first = architectures[0] if architectures else {}
    texts = [" ".join(map(str, first.values()))] if architectures else []
    for other in architectures[1:]:
        names = [name for name in [*first, *other] if first.get(name) != other.get(name)]
        texts.append(", ".join(f"{name}={other.get(name, '-')}" for name in dict.fromkeys(names)))
    return [short(text, MAX_LABEL) for text in texts]


def draw_most_probable(moments: Moments) -> Figure:
    """A line for each of the `MAX_LINES` architectures that are most probable at the last moment; `moments` must not be empty.

    Their labels begin with their place. A line has gaps where a moment does not list its architecture.
    """
    last, lines = probable_lines(moments)
    figure, axes = chart_axes("batches", "probability", len(lines))
    for i, (line, label) in enumerate(zip(lines, architecture_labels(last), strict=True)):
        axes.plot(
            [moment["batch"] for moment in moments],
            line,
            linewidth=2.2 if i == 0 else 1.2,
            color=COLORS[i % 6],
            linestyle=STYLES[(i // 6 + i) % 4],
            label=f"{i + 1}: {label}",
        )
    _use_log(axes, [value for line in lines for value in line if value > 0], 10)
    legend(figure)
    return figure


def probable_lines(moments: Moments) -> tuple[list[Mapping[str, Any]], list[list[float]]]:
    """The choices of the architectures that are most probable at the last moment, and their probabilities at all moments (NaN: unknown)."""
    last = [entry["choices"] for entry in moments[-1]["most_probable"]][:MAX_LINES]
    known = [{key_of(entry["choices"]): entry["probability"] for entry in m["most_probable"]} for m in moments]
    return last, [[moment.get(key_of(choices), math.nan) for moment in known] for choices in last]


def draw_scores(scored: Sequence[Mapping[str, Any]], marked: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A point for each scored architecture: its loss on the arch split against its MACs; larger marks for `marked`, text -> choices.

    If ``macs`` in `scored` are unknown or all equal, the horizontal axis is the order of evaluation.
    """
    macs = {entry.get("macs") for entry in scored}
    with_macs = len(macs) > 1 and None not in macs
    places = [entry["macs"] if with_macs else number for number, entry in enumerate(scored, 1)]
    losses = [entry["loss"] for entry in scored]
    same = f" ({macs.pop():,.0f} MACs each)" if len(macs) == 1 and None not in macs else ""
    across = "MACs" if with_macs else f"order of evaluation{same}"
    figure, axes = chart_axes(across, "loss on the arch split", 1)
    axes.scatter(places, losses, s=12, color="#7f8a94", label="scored")
    points = {key_of(e["choices"]): (place, e["loss"]) for place, e in zip(places, scored, strict=True)}
    for i, (text, choices) in enumerate(marked.items()):
        if (key := key_of(choices)) in points:
            axes.scatter(*points[key], s=70, color=COLORS[i], marker="*D"[i % 2], label=text)
    _use_log(axes, losses, 3)
    legend(figure, columns=3)
    return figure


def chart_axes(across: str, up: str, num_legend_lines: int = 0) -> tuple[Figure, Axes]:
    """Axes with room for a legend below; fixed margins, since a layout engine takes longer than the drawing."""
    below = 0.55 + num_legend_lines * 0.175
    height = 2.2 + below
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0.75 / WIDTH, below / height, (WIDTH - 0.95) / WIDTH, (height - below - 0.25) / height))
    axes.set_xlabel(across, fontsize=FONT, parse_math=False)
    axes.set_ylabel(short(up, 28), fontsize=FONT, parse_math=False)
    axes.tick_params(labelsize=FONT)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(figure: Figure, columns: int = 1) -> None:
    """A legend at the bottom of the figure, below the only axes; a label is no mathematical text."""
    box = figure.legend(
        fontsize=FONT, frameon=False, loc="lower left", ncols=columns, borderaxespad=0.2, labelspacing=0.2
    )
    for text in box.get_texts():
        text.set_parse_math(False)


def _use_log(axes: Axes, values: Sequence[float], ratio: float) -> None:
    """A logarithmic vertical axis if the values are positive and the largest is over `ratio` times the smallest."""
    if values and min(values) > 0 and max(values) > ratio * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 100 * min(values) else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")  # powers would have small exponents
        axes.yaxis.set_minor_formatter(NullFormatter())
