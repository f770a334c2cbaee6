"""What differs between two runs: configuration, figures, curves and choices.

In a pair, ``a`` and ``b`` are the values of the first and the second run. A key is absent if a run has no value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.genotype import Genotype, labels_of
from nas.io.csv_file import read_columns
from nas.io.errors import UsageError
from nas.runs.folder import RunFolder
from nas.runs.options import check_yaml
from nas.runs.pages import CLASS, final_figures, flattened

SIDES = ("a", "b")
LEVELS = ("weight", "arch", "train", "search", "lr")
"""First words of the tags of curves."""
PROBABILITIES = "probabilities"
"""Tag of the probabilities of all choices, as one curve."""
LOWER = ("loss", "mse", "mae")
"""Names of figures whose best value is the lowest."""

Row = dict[str, Any]
Points = list[tuple[int, Any]]
History = Sequence[tuple[int, Mapping[str, float]]]


def run_differences(paths: Sequence[Path]) -> dict[str, Any]:
    """Compares two runs of the same stage, as far as they have come.

    The keys of the result: ``stage``; ``unfinished`` folders; ``configuration``, pairs of values that differ, by ``key``; ``figures``,
    pairs by ``name`` with the ``difference`` b - a; ``curves`` of :func:`curve_rows`; ``choices``, pairs of labels by ``choice`` with
    ``probability_a`` and ``probability_b``; ``notes``, sentences.

    Raises:
        UsageError: The folders are one folder, are no runs or runs of different stages, or a file is damaged or was changed.
        ValueError: A metrics.csv is damaged.
    """
    check_two_folders(paths)
    folders = [RunFolder.open(path) for path in paths]
    stages = [folder.stage for folder in folders]
    if stages[0] != stages[1]:
        first, second = folders
        raise UsageError(
            f"{first.shown} is a {stages[0]}, but {second.shown} is a {stages[1]}; compare runs of one stage"
        )
    configurations = [_configuration(folder) for folder in folders]
    histories = [read_columns(folder.metrics_csv) if folder.metrics_csv.is_file() else [] for folder in folders]
    found = [folder.read_genotype() if folder.genotype.is_file() else None for folder in folders]
    return {
        "stage": stages[0],
        "unfinished": [folder.shown for folder in folders if not folder.finished],
        "configuration": value_rows(*configurations),
        "figures": figure_rows(*map(_figures, folders)),
        "curves": curve_rows(*histories),
        "choices": choice_rows(*found),
        "notes": _notes(configurations, found),
    }


def check_two_folders(paths: Sequence[Path]) -> None:
    """Raises UsageError if two paths lead to the same folder."""
    if os.path.realpath(paths[0]) == os.path.realpath(paths[1]):
        raise UsageError(f"{paths[0]} and {paths[1]} are the same folder")


def value_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    """The values that differ between two configurations; arguments of a class are compared one by one."""
    flat = flattened(a), flattened(b)
    keys = [
        key for key in {**flat[0], **flat[1]} if any(key not in side for side in flat) or flat[0][key] != flat[1][key]
    ]
    return [{"key": key.removesuffix(CLASS), **_pair(key, *flat)} for key in keys]


def figure_rows(a: Mapping[str, float], b: Mapping[str, float]) -> list[Row]:
    """Pairs of figures."""
    both = {name: b[name] - a[name] for name in a if name in b}
    return [{"name": name, **_pair(name, a, b), "difference": both.get(name)} for name in {**a, **b}]


def curve_rows(a: History, b: History) -> list[Row]:
    """The curves of two metrics.csv, and the probabilities of all choices as one more.

    Keys: ``tag``; ``final_a``, ``final_b``; ``best_a``, ``best_b`` of losses and metrics; ``equal``; ``differs_at``, the first batch at
    which the curves differ, None if one curve is the beginning of the other.
    """
    curves = _curves(a), _curves(b)
    rows = []
    for tag in {**curves[0], **curves[1]}:
        points = [side.get(tag, []) for side in curves]
        texts = [[*map(repr, side)] for side in points]  # NaN equals NaN
        first = next((i for i, (x, y) in enumerate(zip(*texts, strict=False)) if x != y), None)
        row = {
            "tag": tag,
            "equal": texts[0] == texts[1],
            "differs_at": None if first is None else min(side[first][0] for side in points),
        }
        for side, known in zip(SIDES, points, strict=True):
            if known and tag != PROBABILITIES:
                row[f"final_{side}"] = known[-1][1]
                if tag.partition("/")[0] in ("weight", "arch", "train"):
                    best = min if tag.rpartition("/")[2] in LOWER else max
                    row[f"best_{side}"] = best((value for _, value in known if value == value), default=math.nan)
        rows.append(row)
    return rows


def choice_rows(a: Genotype | None, b: Genotype | None) -> list[Row]:
    """Pairs of labels of two architectures, with their probabilities."""
    sides = {side: found for side, found in zip(SIDES, (a, b), strict=True) if found is not None}
    rows = []
    for name in dict.fromkeys(name for found in sides.values() for name in found.choices):
        row: Row = {"choice": name}
        for side, found in sides.items():
            if name in found.choices:
                known = found.probabilities.get(name, {})
                row[side] = found.choices[name]
                row[f"probability_{side}"] = [known[label] for label in labels_of(row[side]) if label in known]
        rows.append(row)
    return rows


def _configuration(folder: RunFolder) -> dict[str, Any]:
    if folder.finished:
        folder.check_unchanged()
    return check_yaml(folder.config)


def _figures(folder: RunFolder) -> dict[str, float]:
    """The figures of a run and of its retraining, as far as they are finished."""
    finished = {"": folder, "retrained ": folder.retrain}
    try:
        return {
            f"{prefix}{name}": value
            for prefix, run in finished.items()
            if run.finished
            for name, value in final_figures(run.read_summary()).items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{folder.shown}: summary.json is damaged: {error!r:.80}") from None


def _curves(history: History) -> dict[str, Points]:
    """Tag -> (batch, value) of each point."""
    curves: dict[str, Points] = {}
    for step, row in history:
        for tag, value in row.items():
            if tag.partition("/")[0] in LEVELS:
                curves.setdefault(tag, []).append((step, value))
        if probabilities := {tag: value for tag, value in row.items() if tag.startswith("choice/")}:
            curves.setdefault(PROBABILITIES, []).append((step, probabilities))
    return curves


def _notes(configurations: Sequence[Mapping[str, Any]], found: Sequence[Genotype | None]) -> list[str]:
    spaces = [flattened(values).get("model.space.class_path") for values in configurations]
    labels = [{name: set(row) for name, row in genotype.probabilities.items()} for genotype in found if genotype]
    if spaces[0] == spaces[1] and (len(labels) < 2 or labels[0] == labels[1]):
        return []
    if len(labels) < 2:
        return ["the runs have different search spaces: their choices differ in kind"]
    same = sum(labels[1].get(name) == row for name, row in labels[0].items())
    return [
        "the runs have different search spaces: their choices differ in kind; "
        f"{same} of {len({**labels[0], **labels[1]})} choices have the same name and labels in both"
    ]


def _pair(key: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Row:
    return {side: values[key] for side, values in zip(SIDES, (a, b), strict=True) if key in values}
