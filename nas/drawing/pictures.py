"""The pictures of a search. A picture that would be empty or show one color is left out, with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from nas.drawing.architecture import Cells, draw_architecture
from nas.drawing.distribution import Moments, draw_most_probable, draw_scores, probable_lines
from nas.drawing.heat_map import draw_heat_map, probability_history
from nas.genotype import Genotype

HEAT_MAP, ARCHITECTURE = "search/probabilities", "search/architecture"
MOST_PROBABLE, SCORES = "search/most_probable", "search/scores"
VISIBLE = 0.01
"""Smallest change of a probability that a color or a line shows."""


class Picture(NamedTuple):
    """A picture of a report and of TensorBoard.

    Attributes:
        tag: Its tag in TensorBoard.
        caption: What it shows.
        figure: None if the picture is left out.
        reason: Why the picture is left out.
    """

    tag: str
    caption: str
    figure: Figure | None
    reason: str


def picture(tag: str, caption: str, reason: str, draw: Callable[[], Figure]) -> Picture:
    """Draws the picture if there is no reason against it."""
    return Picture(tag, caption, None if reason else draw(), reason)


def architecture_picture(genotype: Genotype, cells: Cells) -> Picture:
    """The picture of the chosen candidates."""
    caption = "The architecture: chosen candidates are dark, with their final probability."
    if cells:
        caption = "The architecture: the nodes of a cell, with its operations at the edges."
    reason = _without_architecture(genotype, cells)
    return picture(ARCHITECTURE, caption, reason, lambda: draw_architecture(genotype, cells))


def probability_picture(rows: Iterable[tuple[int, Mapping[str, float]]], genotype: Genotype) -> Picture:
    """The probabilities of all candidates over the course of a search.

    Args:
        rows: The metrics of a search: batches done, tag -> value.
        genotype: Its probabilities name the choices and their labels.
    """
    history = probability_history(rows, genotype.probabilities)
    last = history[-1][1] if history else {}
    series = [[moment[name][label] for _, moment in history] for name, row in last.items() for label in row]
    return picture(
        HEAT_MAP,
        "Probability of each candidate over time.",
        without_change(series, VISIBLE, "probability"),
        lambda: draw_heat_map(history),
    )


def distribution_pictures(
    moments: Moments, scored: Sequence[Mapping[str, Any]], marked: Mapping[str, Mapping[str, Any]]
) -> Iterator[Picture]:
    """The most probable architectures over time, and the scores; see :func:`draw_most_probable` and :func:`draw_scores`."""
    lines = probable_lines(moments)[1] if moments else []
    listed = [[value for value in line if value == value] for line in lines]
    yield picture(
        MOST_PROBABLE,
        "The most probable architectures over time.",
        without_change(listed, VISIBLE * max((value for line in listed for value in line), default=0), "probability"),
        lambda: draw_most_probable(moments),
    )
    losses = [entry["loss"] for entry in scored]
    reason = f"{'only one' if losses else 'no'} architecture was scored" if len(losses) < 2 else ""
    if len(losses) > 1 and min(losses) == max(losses):
        reason = f"all {len(losses)} scored architectures have a loss of {losses[0]:.4g}"
    yield picture(SCORES, "The loss of each scored architecture.", reason, lambda: draw_scores(scored, marked))


def search_pictures(
    rows: Iterable[tuple[int, Mapping[str, float]]], genotype: Genotype, cells: Cells
) -> tuple[Picture, Picture]:
    """The pictures of every search."""
    return architecture_picture(genotype, cells), probability_picture(rows, genotype)


def without_change(series: Sequence[Sequence[float]], smallest: float, what: str) -> str:
    """Why a picture over time would show nothing: too few values, or no series that changes by `smallest`; empty if it shows something."""
    longest = max(map(len, series), default=0)
    if longest < 2:
        return "only one moment was recorded" if longest else f"no {what} was recorded"
    if all(max(values) - min(values) < smallest for values in series if values):
        return f"no {what} changed by {smallest:.1g} or more"
    return ""


def _without_architecture(genotype: Genotype, cells: Cells) -> str:
    if not genotype.choices:
        return "the network has no choices"
    if cells and not any(edge.label for edges in cells.values() for edge in edges):
        return "no edge of a cell has an operation"
    if not cells and not any(len(genotype.probabilities.get(name, ())) > 1 for name in genotype.choices):
        return "only the chosen candidates are known, and the table lists them"
    return ""
