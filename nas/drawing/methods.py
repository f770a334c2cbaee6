"""Draws methods beside each other: curves with bands, and results against cost. The place of a method fixes its color."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas.drawing.choices import short
from nas.drawing.distribution import COLORS, MAX_LINES, STYLES, chart_axes, legend

MARKERS = "os^Dv*"
RANDOM, _COST = "random search", "cost of a search, in stand-alone trainings"
_LINE = 56
"""Number of characters in a line of a legend."""

Band = Mapping[str, Sequence[tuple[int, float, float]]]
"""Method -> (epoch, mean, standard deviation)."""


def draw_bands(bands: Band, order: Sequence[str], label: str) -> list[Figure]:
    """The mean of each method as a line, and one standard deviation as a band; pictures of at most `MAX_LINES` methods.

    Args:
        bands: The curves.
        order: All methods of the launch.
        label: The label of the vertical axis.
    """
    figures = []
    for names in _parts([name for name in order if name in bands]):
        figure, axes, columns = _axes("epoch", label, names)
        for name in names:
            epochs, means, spreads = zip(*bands[name], strict=True)
            color, style = _look(order.index(name))
            marker = "o" if len(epochs) == 1 else None  # a line of one point has no length
            axes.plot(
                epochs, means, color=color, linestyle=style, marker=marker, linewidth=1.6, label=short(name, _LINE)
            )
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
        legend(figure, columns)
        figures.append(figure)
    return figures


def draw_costs(
    rows: Sequence[Mapping[str, Any]], label: str, chance: Sequence[tuple[float, float]] = ()
) -> list[Figure]:
    """The result of each method against its cost, with standard deviations; `chance` is random search: (cost, result).

    Args:
        rows: ``method``, ``cost``, ``mean`` and ``std`` of all methods of the launch; methods without cost are left out.
        label: The label of the vertical axis.
        chance: Points of a curve.
    """
    figures = []
    order = [row["method"] for row in rows]
    known = {row["method"]: row for row in rows if row.get("cost") is not None}
    for names in _parts([name for name in order if name in known]):
        figure, axes, columns = _axes(_COST, label, [*names, RANDOM])
        if chance:
            axes.plot(*zip(*chance, strict=True), color="#7f8a94", linewidth=1.2, label=RANDOM)
        for name in names:
            row, place = known[name], order.index(name)
            marker = MARKERS[place // len(COLORS) % len(MARKERS)]
            spread = row["std"] or 0.0
            color, _ = _look(place)
            axes.errorbar(
                row["cost"], row["mean"], spread, marker=marker, color=color, capsize=3, label=short(name, _LINE)
            )
        legend(figure, columns)
        figures.append(figure)
    return figures


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[i : i + MAX_LINES] for i in range(0, len(names), MAX_LINES)]


def _look(place: int) -> tuple[str, str]:
    return COLORS[place % len(COLORS)], STYLES[place // len(COLORS) % len(STYLES)]


def _axes(across: str, up: str, names: Sequence[str]) -> tuple[Figure, Axes, int]:
    """Figure, axes, and the number of columns of a legend that has room for the names."""
    columns = max(1, min(3, _LINE // (max(map(len, names)) + 8)))
    return *chart_axes(across, up, -(-len(names) // columns)), columns
