"""Compare two runs, or two launches.

Of two runs of one stage, the command prints what differs in configuration,
figures, curves and choices. Of two launches, it pairs searches with equal
settings and seeds, and prints the mean difference of their results. The best
value of a curve is the lowest of loss, mse and mae, and the highest of others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nas.cli.parsing import CommandParser
from nas.cli.printing import text_of
from nas.genotype import choices_text, labels_of
from nas.io.errors import shown

PARSER = CommandParser("compare", __doc__, trust=False)
for name in "AB":
    PARSER.add_argument(name, type=Path, help="run folder, or folder of a launch")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compares; returns what differs."""
    from nas.launch.launch import LAUNCH
    from nas.report.differences import run_differences
    from nas.report.launch_differences import launch_differences

    paths = [options.A, options.B]
    launches = [path for path in paths if (path / LAUNCH).is_file()]
    if len(launches) == 1:
        PARSER.error(f"{launches[0]} is a launch and the other folder is not; compare two runs, or two launches")
    found = launch_differences(paths) if launches else run_differences(paths)
    return {"a": str(options.A), "b": str(options.B), **found}


def show(result: dict[str, Any]) -> None:
    """Prints a table for each kind of difference."""
    print(shown(f"A: {result['a']}"), shown(f"B: {result['b']}"), sep="\n")
    for path in result.get("unfinished", ()):
        print(shown(f"unfinished: {path}"))
    for note in result["notes"]:
        print(shown(f"note: {note}"))
    if not result["configuration"]:
        print("configuration: equal")
    rows = ([row["key"], *(_value(row, side) for side in "ab")] for row in result["configuration"])
    _table("configuration", ("key", "A", "B"), rows)
    (_show_launches if "pairs" in result else _show_runs)(result)


def _show_runs(result: dict[str, Any]) -> None:
    head = ("figure", "A", "B", "B - A")
    _table("figures", head, (_cells(row, "name", "a", "b", "difference") for row in result["figures"]))
    keys = ("tag", "final_a", "final_b", "best_a", "best_b")
    rows = ([*_cells(row, *keys), _where(row)] for row in result["curves"])
    _table("curves", ("curve", "final A", "final B", "best A", "best B", "equal"), rows)
    rows = ([*_cells(row, "choice"), *(_label(row, side) for side in "ab"), _sign(row)] for row in result["choices"])
    _table("choices", ("choice", "A", "B", "equal"), rows)


def _show_launches(result: dict[str, Any]) -> None:
    rows = ([_settings(row), *_cells(row, "a", "b")] for row in result["settings"])
    _table("finished searches", ("settings", "A", "B"), rows)
    rows = ([_settings(row), *_cells(row, "seed", "a", "b", "difference")] for row in result["pairs"])
    _table(f"metric, {result['part']}", ("settings", "seed", "A", "B", "B - A"), rows)
    rows = ([_settings(row), *_cells(row, "num", "mean", "error", "p_value")] for row in result["means"])
    _table("paired difference B - A", ("settings", "pairs", "mean", "standard error", "p of the t-test"), rows)
    rows = ([*_cells(row, "choice"), f"{row['equal']} of {row['num']}"] for row in result["choices"])
    _table("equal choices", ("choice", "pairs"), rows)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(text, overflow="fold") for text in head), title=title)
    for row in rows:
        table.add_row(*map(shown, row))
    if table.rows:
        Console(highlight=False, markup=False).print(table)


def _cells(row: dict[str, Any], *keys: str) -> list[str]:
    return [text_of(row[key]) if key in row else "" for key in keys]


def _value(row: dict[str, Any], side: str) -> str:
    value = row.get(side, "")
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _settings(row: dict[str, Any]) -> str:
    return choices_text(row["settings"]) or "as configured"


def _label(row: dict[str, Any], side: str) -> str:
    if side not in row:
        return ""
    known = ", ".join(f"{value:.3f}" for value in row[f"probability_{side}"])
    return ", ".join(labels_of(row[side])) + (f" ({known})" if known else "")


def _sign(row: dict[str, Any]) -> str:
    if "a" not in row or "b" not in row:
        return ""
    return "yes" if row["a"] == row["b"] else "no"


def _where(row: dict[str, Any]) -> str:
    if row["equal"]:
        return "yes"
    return "as far as both go" if row["differs_at"] is None else f"no, from batch {row['differs_at']:,}"
