"""Curves of a search and of a retraining as pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from nas.drawing import Picture, picture
from nas.drawing.captions import OTHERS, SPLITS
from nas.drawing.distribution import COLORS, STYLES, chart_axes, legend

History = Sequence[tuple[int, Mapping[str, float]]]


class _Line(NamedTuple):
    label: str
    points: list[tuple[int, float]]


def curve_pictures(history: History) -> Iterator[Picture]:
    """A picture of each loss and metric, with a line for each split, then of tau and the entropies; each point is the mean of an epoch.

    Args:
        history: (batches done, tag -> value) of a search or of a retraining.
    """
    tags = list(dict.fromkeys(tag for _, row in history for tag in row))
    levels = {tag: tag.partition("/")[::2] for tag in tags}
    names = list(dict.fromkeys(name for level, name in levels.values() if level in SPLITS))
    for name in names:
        lines = {
            level: _line(history, f"{level}/{name}", label)
            for level, label in SPLITS.items()
            if f"{level}/{name}" in tags
        }
        yield _picture(name, name, _caption(name, list(lines)), list(lines.values()))
        if "weight" in lines and "arch" not in lines:
            yield Picture(f"{name} of the arch split", "", None, "the search did not measure it")
    for tag, (label, caption) in OTHERS.items():
        if tag in tags:
            yield _picture(tag.partition("/")[2], label, caption, [_line(history, tag, "")])


def _line(history: History, tag: str, label: str) -> _Line:
    return _Line(label, [(step, row[tag]) for step, row in history if tag in row])


def _caption(name: str, levels: Sequence[str]) -> str:
    if "train" in levels:
        return f"The {name} of the retrained network on its training data. The test set is read once, at the end."
    said = " and on the ".join(SPLITS[level] for level in levels)
    return f"The {name} of the supernet on the {said}."


def _picture(tag: str, up: str, caption: str, lines: Sequence[_Line]) -> Picture:
    values = [[value for _, value in line.points if math.isfinite(value)] for line in lines]
    reason = ""
    if max(map(len, values)) < 2:
        reason = "only one value was measured" if any(values) else "no finite value was measured"
    elif all(math.isclose(min(known), max(known), rel_tol=1e-6) for known in values if known):
        reason = f"{' and '.join(dict.fromkeys(f'{known[0]:.4g}' for known in values if known))} throughout"
    return picture(tag, caption, reason, lambda: _draw(up, lines))


def _draw(up: str, lines: Sequence[_Line]) -> Figure:
    labeled = any(line.label for line in lines)
    figure, axes = chart_axes("batches", up, int(labeled))
    for i, line in enumerate(lines):
        batches, values = zip(*line.points, strict=True)
        marker = "o" if len(values) == 1 else None  # a line of one point has no length
        axes.plot(batches, values, color=COLORS[i], linestyle=STYLES[i], marker=marker, linewidth=1.6, label=line.label)
    if labeled:
        legend(figure, columns=len(lines))
    return figure
