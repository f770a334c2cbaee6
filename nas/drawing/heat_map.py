"""Draws the probabilities of candidates over the course of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

MAX_ROWS = 120
MAX_COLUMNS = 200
"""Largest number of drawn steps, which include the last step."""

History = Sequence[tuple[int, Mapping[str, Mapping[str, float]]]]
"""(batches done, choice -> label -> probability), in chronological order."""


def probability_history(
    rows: Iterable[tuple[int, Mapping[str, float]]], choices: Mapping[str, Iterable[str]]
) -> list[tuple[int, dict[str, dict[str, float]]]]:
    """The history in the metrics of a search: the columns ``choice/NAME/LABEL``. Rows without these columns are skipped.

    Args:
        rows: (batches done, column -> value).
        choices: Choice name -> labels.
    """
    columns = {name: {label: f"choice/{name}/{label}" for label in labels} for name, labels in choices.items()}
    history = []
    for step, row in rows:
        moment = {
            name: {label: row[column] for label, column in labels.items()}
            for name, labels in columns.items()
            if all(column in row for column in labels.values())
        }
        if moment:
            history.append((step, moment))
    return history


def draw_heat_map(history: History) -> Figure:
    """A row for every candidate of every choice and a column for every step; probable candidates are dark.

    `history` must not be empty, and all its steps must have the same choices.
    """
    every = -(-len(history) // MAX_COLUMNS)
    history = history[(len(history) - 1) % every :: every]
    choices = history[-1][1]
    rows = [(name, label) for name, row in choices.items() for label in row][:MAX_ROWS]
    values = np.array([[moment[name][label] for _, moment in history] for name, label in rows]).reshape(len(rows), -1)
    labels = [f"{name}  {label}" for name, label in rows]
    # margins in inches instead of a layout engine, which measures every text several times and takes half of the drawing time
    width, height = 7.0, max(1.5, 0.16 * len(rows) + 0.8)
    left, right, bottom = min(width / 2, 0.2 + 0.053 * max(map(len, labels))), 0.8, 0.45
    figure = Figure(figsize=(width, height), facecolor="white")
    vertical = bottom / height, (height - bottom - 0.1) / height
    axes = figure.add_axes((left / width, vertical[0], (width - left - right) / width, vertical[1]))
    bar_axes = figure.add_axes(((width - right + 0.08) / width, vertical[0], 0.14 / width, vertical[1]))
    image = axes.imshow(values, cmap="cividis_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(rows)), labels, fontsize=6)
    places = np.unique(np.linspace(0, len(history) - 1, min(len(history), 7)).round().astype(int))
    axes.set_xticks(places, [str(history[place][0]) for place in places], fontsize=7)
    axes.set_xlabel("batches", fontsize=7)
    sizes = np.cumsum([len(row) for row in choices.values()])[:-1]
    for border in sizes[sizes < len(rows)]:
        axes.axhline(border - 0.5, color="white", linewidth=1.5)
    bar = figure.colorbar(image, cax=bar_axes)
    bar.ax.tick_params(labelsize=6)
    bar.set_label("probability", fontsize=7)
    return figure
