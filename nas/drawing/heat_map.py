"""Draws the probabilities of candidates over the course of a search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from nas.drawing.choices import FONT, MAX_ROWS, WIDTH, short, text_width

MAX_LABEL, MAX_NAME = 24, 44
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
    """A row for every candidate, below the name of its choice, and a column for every step; probable candidates are dark.

    Candidates after the first `MAX_ROWS` are left out, and the last line says how many. `history` must not be empty, and all its steps must
    have the same choices.
    """
    every = -(-len(history) // MAX_COLUMNS)
    history = history[(len(history) - 1) % every :: every]
    choices = history[-1][1]
    candidates = [(name, label) for name, row in choices.items() for label in row]
    shown = candidates[:MAX_ROWS]
    rows = [row for name in dict.fromkeys(name for name, _ in shown) for row in ((name, ""), *_of(name, shown))]
    blank = [math.nan] * len(history)  # the row of a name
    values = [[moment[name][label] for _, moment in history] if label else blank for name, label in rows]
    labels = [short(label, MAX_LABEL) for _, label in rows]
    # margins in inches instead of a layout engine, which measures every text several times and takes half of the drawing time
    left, right, below = 0.3 + max(map(text_width, labels)), 0.85, 0.5 + (0.2 if len(shown) < len(candidates) else 0)
    height = max(1.5, 0.17 * len(rows)) + below
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    width, bottom, tall = (WIDTH - left - right) / WIDTH, below / height, (height - below - 0.05) / height
    axes = figure.add_axes((left / WIDTH, bottom, width, tall))
    bar_tall = min(tall, 2.5 / height)
    bar_axes = figure.add_axes(
        ((WIDTH - right + 0.08) / WIDTH, bottom + tall - bar_tall, 0.14 / WIDTH, bar_tall * 0.97)
    )
    image = axes.imshow(np.array(values), cmap="cividis_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks([i for i, label in enumerate(labels) if label], [label for label in labels if label], fontsize=FONT)
    for i, (name, label) in enumerate(rows):
        if not label:
            place = 0.1 / WIDTH, bottom + tall * (1 - (i + 0.5) / len(rows))
            figure.text(*place, short(name, MAX_NAME), fontsize=FONT, va="center", fontweight="bold", parse_math=False)
    num_ticks = max(2, int(width * WIDTH / (text_width(str(history[-1][0])) + 0.2)))
    places = np.unique(np.linspace(0, len(history) - 1, min(len(history), num_ticks)).round().astype(int))
    axes.set_xticks(places, [str(history[place][0]) for place in places], fontsize=FONT)
    axes.set_xlabel("batches", fontsize=FONT)
    axes.spines[:].set_visible(False)
    if hidden := len(candidates) - len(shown):
        figure.text(0.1 / WIDTH, 0.1 / height, f"and {hidden} more candidates", fontsize=FONT, va="center")
    bar = figure.colorbar(image, cax=bar_axes)
    bar.ax.tick_params(labelsize=FONT)
    bar.set_label("probability", fontsize=FONT)
    return figure


def _of(name: str, rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [row for row in rows if row[0] == name]
