"""What differs between two launches: configuration, settings, and the results of equal seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.launch.comparison import paired
from nas.launch.launch import read_launch
from nas.launch.trials import rows
from nas.report.differences import SIDES, check_two_folders, value_rows
from nas.runs.options import check_yaml

Row = dict[str, Any]
Searches = dict[str, dict[int, Row]]
"""Settings as JSON -> seed -> the row of a finished search."""


def launch_differences(paths: Sequence[Path]) -> dict[str, Any]:
    """Compares two launches, and pairs their searches that have equal settings and seeds.

    If each launch has one combination of settings, the two are paired even if they differ, and the result names that of the second launch.

    The keys of the result: ``configuration``, pairs of values that differ, by ``key``; ``settings``, the number of finished searches ``a``
    and ``b`` of each combination; ``part``, ``"test"`` if both launches have retrained, else ``"arch"``; ``pairs``, the metric of that part
    of each common seed; ``means`` of :func:`mean_rows`; ``choices``, in how many of ``num`` pairs a choice has ``equal`` labels; ``notes``,
    sentences.

    Raises:
        UsageError: The folders are one folder, are no launches, or a file is damaged.
    """
    check_two_folders(paths)
    configurations, searches, notes = [], [], []
    for path in paths:
        plan, trials, *_ = read_launch(path, ())
        configurations.append(check_yaml(plan.config))
        found: Searches = {json.dumps(trial.settings, sort_keys=True): {} for trial in trials}
        for trial, row in zip(trials, rows(plan, trials), strict=True):
            if "arch" in row:
                found[json.dumps(trial.settings, sort_keys=True)][trial.seed] = row
        searches.append(found)
        if (num := sum(map(len, found.values()))) < len(trials):
            notes.append(f"{path}: {num} of {len(trials)} searches are finished")
    combinations = [(text, text) for text in searches[0] if text in searches[1]]
    if len(searches[0]) == len(searches[1]) == 1:
        combinations = [(next(iter(searches[0])), next(iter(searches[1])))]
    matched = [
        (settings, seed, searches[0][first][seed], searches[1][settings][seed])
        for first, settings in combinations
        for seed in searches[0][first]
        if seed in searches[1][settings]
    ]
    if not matched:
        notes.append("no finished searches have equal settings and seeds: nothing is paired")
    part = "test" if any("test" in a and "test" in b for *_, a, b in matched) else "arch"
    pairs = [
        {"settings": json.loads(text), "seed": seed, "a": a[part], "b": b[part], "difference": b[part] - a[part]}
        for text, seed, a, b in matched
        if part in a and part in b
    ]
    return {
        "configuration": value_rows(*configurations),
        "settings": [
            {
                "settings": json.loads(text),
                **{s: len(f[text]) for s, f in zip(SIDES, searches, strict=True) if text in f},
            }
            for text in {**searches[0], **searches[1]}
        ],
        "part": part,
        "pairs": pairs,
        "means": mean_rows(pairs),
        "choices": _agreement([(a["genotype"], b["genotype"]) for *_, a, b in matched]),
        "notes": notes,
    }


def mean_rows(pairs: Sequence[Row]) -> list[Row]:
    """For each combination of settings: the differences b - a of equal seeds, see :func:`nas.launch.comparison.paired`."""
    groups: dict[str, list[Row]] = {}
    for row in pairs:
        groups.setdefault(json.dumps(row["settings"]), []).append(row)
    return [
        {"settings": json.loads(text), **paired(*({row["seed"]: row[side] for row in members} for side in "ba"))}
        for text, members in groups.items()
    ]


def _agreement(found: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Row]:
    """A row for each choice that is active in both searches of a pair."""
    result: dict[str, Row] = {}
    for a, b in found:
        for name in (name for name in a if name in b):
            row = result.setdefault(name, {"choice": name, "equal": 0, "num": 0})
            row["num"] += 1
            row["equal"] += a[name] == b[name]
    return list(result.values())
