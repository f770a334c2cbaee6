"""Curves of the methods of a launch: the mean over seeds and its spread, epoch by epoch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nas.drawing.captions import OTHERS
from nas.io.csv_file import read_columns
from nas.launch.trials import Plan, Trial


class Point(NamedTuple):
    """The mean over seeds at the end of an epoch.

    Attributes:
        epoch: Its number from 1.
        mean: The mean.
        std: The standard deviation; 0 for one seed.
        num: Number of seeds that have a value.
    """

    epoch: int
    mean: float
    std: float
    num: int


Curves = dict[str, dict[str, list[Point]]]
"""Tag -> method -> points. Every tag has every method that measured it, in the order of the launch."""


def read_curves(plan: Plan, trials: Sequence[Trial]) -> Curves:
    """The curves of the arch split, of the train split, and of the distribution; trials that have not started are left out.

    Raises:
        ValueError: The metrics file of a trial is damaged.
    """
    values: dict[str, dict[str, dict[int, list[float]]]] = {}
    for trial in trials:
        path = plan.run(trial).metrics_csv
        for _, row in read_columns(path) if path.is_file() else ():
            for tag in _tags(row):
                if math.isfinite(row[tag]):
                    by_epoch = values.setdefault(tag, {}).setdefault(trial.method, {})
                    by_epoch.setdefault(_epoch(row, path) + 1, []).append(row[tag])
    order = dict.fromkeys(trial.method for trial in trials)
    curves = {
        tag: {name: [_point(*item) for item in sorted(found[name].items())] for name in order if name in found}
        for tag, found in values.items()
    }
    return dict(sorted(curves.items(), key=lambda item: _rank(item[0])))


def _epoch(row: Mapping[str, float], path: Path) -> int:
    epoch = row.get("epoch", math.nan)
    if not epoch.is_integer():
        raise ValueError(f"{path}: damaged: epoch must be a whole number")
    return int(epoch)


def _tags(row: Mapping[str, Any]) -> Iterable[str]:
    return [tag for tag in row if tag.startswith(("arch/", "weight/")) or tag in OTHERS]


def _rank(tag: str) -> tuple[int, bool]:
    """Validation before training before the distribution; metrics before losses."""
    level, _, name = tag.partition("/")
    return ("arch", "weight", "search").index(level), name == "loss"


def _point(epoch: int, values: Sequence[float]) -> Point:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return Point(epoch, statistics.fmean(values), spread, len(values))
