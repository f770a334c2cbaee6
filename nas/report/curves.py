"""Curves of a search as figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from nas.drawing.distribution import COLORS, STYLES

History = Sequence[tuple[int, dict[str, float]]]


def draw_curves(history: History) -> Iterator[tuple[str, Figure]]:
    """(title, figure) of each measured curve: losses, metrics, tau, entropy."""
    tags = list(dict.fromkeys(tag for _, row in history for tag in row))
    groups: dict[str, list[str]] = {}
    for tag in tags:
        level, _, name = tag.partition("/")
        if level in ("weight", "arch", "train"):
            groups.setdefault(name, []).append(tag)
    for tag in ("search/tau", "search/entropy", "search/joint_entropy", "search/mode_probability"):
        if tag in tags:
            groups[tag.removeprefix("search/")] = [tag]
    for name, members in groups.items():
        yield name, _curve(history, name, members)


def _curve(history: History, name: str, tags: Sequence[str]) -> Figure:
    figure = Figure(figsize=(5, 2.6), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for i, tag in enumerate(tags):
        points = [(step, row[tag]) for step, row in history if tag in row]
        label = tag.partition("/")[0]
        axes.plot(*zip(*points, strict=True), color=COLORS[i % 6], linestyle=STYLES[i % 4], linewidth=1.4, label=label)
    axes.set_xlabel("batches", fontsize=8)
    axes.set_ylabel(name, fontsize=8, parse_math=False)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(tags) > 1:
        axes.legend(fontsize=7, frameon=False)
    return figure
