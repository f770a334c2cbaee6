"""Draws how probability concentrates on architectures, and the scores that decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas.drawing.choices import short
from nas.genotype import key_of

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008
STYLES = ("-", "--", ":", "-.")
MAX_LABEL = 64

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
    """A line for each of the architectures that are most probable at the last moment; `moments` must not be empty.

    A line has gaps where a moment does not list its architecture.
    """
    last = [entry["choices"] for entry in moments[-1]["most_probable"]]
    known = [{key_of(entry["choices"]): entry["probability"] for entry in m["most_probable"]} for m in moments]
    batches = [moment["batch"] for moment in moments]
    lines = [[moment.get(key_of(choices), math.nan) for moment in known] for choices in last]
    figure, axes = _axes()
    for i, (line, label) in enumerate(zip(lines, architecture_labels(last), strict=True)):
        axes.plot(
            batches,
            line,
            linewidth=2.2 if i == 0 else 1.2,
            color=COLORS[i % 6],
            linestyle=STYLES[(i // 6 + i) % 4],
            label=label,
        )
    axes.set_xlabel("batches", fontsize=8)
    axes.set_ylabel("probability", fontsize=8)
    axes.set_yscale("log")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    return figure


def draw_scores(scored: Sequence[Mapping[str, Any]], marked: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A point for each scored architecture: its loss on the arch split against its MACs; larger marks for `marked`, text -> choices.

    If ``macs`` in `scored` are unknown or all equal, the horizontal axis is the order of evaluation.
    """
    figure, axes = _axes()
    macs = {entry.get("macs") for entry in scored}
    with_macs = len(macs) > 1 and None not in macs
    places = [entry["macs"] if with_macs else number for number, entry in enumerate(scored, 1)]
    losses = [entry["loss"] for entry in scored]
    axes.scatter(places, losses, s=12, color="#7f8a94", label="scored")
    points = {key_of(e["choices"]): (place, e["loss"]) for place, e in zip(places, scored, strict=True)}
    for i, (text, choices) in enumerate(marked.items()):
        if (key := key_of(choices)) in points:
            axes.scatter(*points[key], s=70, color=COLORS[i], marker="*D"[i % 2], label=text)
    if losses and min(losses) > 0 and max(losses) > 3 * min(losses):
        axes.set_yscale("log")
    same = f" ({macs.pop():,.0f} MACs each)" if len(macs) == 1 and None not in macs else ""
    axes.set_xlabel("MACs" if with_macs else f"order of evaluation{same}", fontsize=8)
    axes.set_ylabel("loss on the arch split", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    return figure


def _axes() -> tuple[Figure, Axes]:
    """Axes with room for a legend at the right; fixed margins, since a layout engine takes longer than the drawing."""
    figure = Figure(figsize=(9.5, 3.2), facecolor="white")
    axes = figure.add_axes((0.07, 0.15, 0.45, 0.8))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
