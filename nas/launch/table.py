"""The table of a launch: what each method found, at what cost, beside random search and beside the first method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas.benchmark import Table
from nas.launch.comparison import difference, paired, random_search
from nas.launch.trials import COSTS, FIGURES

Rows = Sequence[Mapping[str, Any]]
RANDOM = "random architectures"


def summarised(
    found: Rows,
    failed: Mapping[str, str],
    random: Mapping[str, Any] | None,
    table: Table | None = None,
    *,
    higher_is_better: bool = True,
) -> dict[str, Any]:
    """The content of a launch's summary.json.

    Its key ``settings`` has a row for each method, in the order of the trials. Besides counts it has ``mean`` and ``std`` over the seeds of
    the test metric (of the arch split without retraining), the ``best`` trial on the arch split, means of costs, search time and rank in a
    table, and

    - ``cost``: search time in stand-alone trainings; a training takes the mean time of the launch's retrainings, without them of the
      trainings of random search.
    - ``random_search``: see :func:`nas.launch.comparison.random_search`; ``difference``: to it.
    - ``paired``: see :func:`nas.launch.comparison.paired`; the difference to the first method.

    Entries that are unknown are missing.

    Args:
        found: The rows of the trials.
        failed: Name of a trial -> reason.
        random: The summary of random search.
        table: The trainings of random search.
        higher_is_better: Whether the best result is the highest.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault(row["method"], []).append(row)
    times = [row["train_seconds"] for row in found if "train_seconds" in row]
    seconds = statistics.fmean(times) if times else None if random is None else random["seconds_per_training"]
    part = "test" if any("test" in row for row in found) else "arch"
    choose = max if higher_is_better else min
    methods = [_summary_of(name, members, part, choose, seconds, table) for name, members in groups.items()]
    first = {row["seed"]: row[part] for row in found if row["method"] == found[0]["method"] and part in row}
    for summary in methods[1:]:
        own = {row["seed"]: row[part] for row in groups[summary["method"]] if part in row}
        summary["paired"] = paired(own, first)
    return {"trials": list(found), "settings": methods, "failed": dict(failed), "baseline": random}


def _summary_of(
    name: str, members: Rows, part: str, choose: Callable[..., Any], seconds: float | None, table: Table | None
) -> dict[str, Any]:
    scored = [row for row in members if part in row]
    settings = {key: value for key, value in members[0].items() if key not in FIGURES}
    summary: dict[str, Any] = {
        "method": name,
        "settings": settings,
        "num": len(members),
        "num_finished": len(scored),
        "part": part,
    }
    if not scored:
        return summary
    values = [row[part] for row in scored]
    judged = [row for row in scored if "arch" in row]
    best = choose(judged, key=lambda row: row["arch"], default={})  # never by the test set
    summary |= {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "best": {key: best[key] for key in FIGURES if key in best},
    }
    for key in ("search_seconds", *COSTS, "rank", "of", "regret"):
        if all(key in row for row in scored):
            summary[key] = statistics.fmean(row[key] for row in scored)
    if seconds:
        summary["cost"] = cost = statistics.fmean(row["search_seconds"] for row in scored) / seconds
        validation, test = ([], []) if table is None else table.random_sample()
        if test and part == "test":
            chance = random_search(validation, test, cost)
            summary |= {"random_search": chance, "difference": difference(values, chance)}
    return summary


_COSTS = ("parameters", "MACs", "latency, ms", "search, s", "cost, trainings")
Cells = tuple[list[str], list[list[str]]]
"""Head and rows of text."""


def split(table: Cells) -> list[Cells]:
    """The columns of :func:`cells` in two narrower tables: results, and costs of the same methods if any is known."""
    head, rows = table
    costs = [place for place, name in enumerate(head) if name in _COSTS]
    results = [place for place in range(len(head)) if place not in costs]
    parts = [results, [0, *costs]] if costs else [results]
    return [([head[i] for i in part], [[row[i] for i in part] for row in rows]) for part in parts]


def cells(summary: Mapping[str, Any]) -> Cells:
    """Head and rows of text, without empty columns. A mean has its standard deviation, a difference its standard error."""
    methods = summary["settings"]
    reference = methods[0]["method"]
    part = methods[0]["part"]
    columns = {
        "method": [row["method"] for row in methods],
        "n": [_count(row) for row in methods],
        f"{part} {summary.get('metric', 'metric')}": [_spread(row) for row in methods],
        "parameters": [_number(row.get("params"), ",.0f") for row in methods],
        "MACs": [_number(row.get("macs"), ",.0f") for row in methods],
        "latency, ms": [_number(row.get("latency_ms"), ".3g") for row in methods],
        "search, s": [_number(row.get("search_seconds"), ".1f") for row in methods],
        "cost, trainings": [_number(row.get("cost"), ".1f") for row in methods],
        "rank in the table": [_rank(row) for row in methods],
        "minus random search": [_difference(row.get("difference")) for row in methods],
        f"minus {reference}": [_difference(row.get("paired")) for row in methods],
        "p": [_number((row.get("paired") or {}).get("p_value"), ".2g") for row in methods],
    }
    if (random := summary["baseline"]) is not None:
        last = {"method": RANDOM, "n": str(random["num"]), list(columns)[2]: _spread(random["test"])}
        for head, column in columns.items():
            column.append(last.get(head, ""))
    columns = {head: column for head, column in columns.items() if any(column)}
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _count(row: Mapping[str, Any]) -> str:
    return str(row["num"]) if row["num"] == row["num_finished"] else f"{row['num_finished']} of {row['num']}"


def _rank(row: Mapping[str, Any]) -> str:
    return f"{row['rank']:.1f} of {row['of']:.0f}" if "rank" in row else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _spread(row: Mapping[str, Any]) -> str:
    spread = row.get("std")
    text = _number(row.get("mean"), ".4f")
    return text if spread is None or math.isnan(spread) else f"{text} ± {spread:.4f}"


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None or found["mean"] is None:
        return ""
    return f"{found['mean']:+.4f}" + ("" if found["error"] is None else f" ± {found['error']:.4f}")


def numbers(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of unrounded numbers for each method: nested entries have names such as ``paired_p_value``."""
    result = []
    for row in summary["settings"]:
        flat = {key: row[key] for key in ("method", "num", "num_finished", "part", "mean", "std") if key in row}
        flat |= {key: row[key] for key in ("search_seconds", *COSTS, "cost", "rank", "of", "regret") if key in row}
        for name in ("random_search", "difference", "paired"):
            flat |= {f"{name}_{key}": value for key, value in (row.get(name) or {}).items()}
        result.append(flat)
    return result
