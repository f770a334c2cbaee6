"""The report of a launch: table, curves, costs, choices and failures, as one HTML file, Markdown, CSV or LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from nas.benchmark import Table
from nas.drawing.captions import caption_of
from nas.drawing.methods import draw_bands, draw_costs
from nas.genotype import choices_text
from nas.io.errors import UsageError, writing_for_user
from nas.io.files import write_atomic
from nas.io.json_file import read_json
from nas.io.latex import latex_table
from nas.io.markdown import escaped, fenced, markdown_table
from nas.launch.agreement import chosen_of
from nas.launch.comparison import best_of
from nas.launch.curves import Curves, read_curves
from nas.launch.launch import BASELINE, SUMMARY, csv_text, read_launch, read_summary
from nas.launch.table import Cells, cells, numbers, split
from nas.report.html import code, figure_of, page, table
from nas.runs.options import trust_words
from nas.runs.stages.baseline import TABLE

Form = Literal["html", "md", "csv", "latex"]
ENDINGS = {"html": "report.html", "md": "report.md", "csv": "table.csv", "latex": "table.tex"}
_NOTE = (
    "mean ± standard deviation over seeds, difference ± standard error; p: two-sided paired t-test over equal seeds. "
    "A cost is the search time in units of one stand-alone training."
)
_CURVES = "The mean over seeds (line) and one standard deviation (band)."


def write_launch_report(folder: Path, form: Form, out: Path | None, trusted: tuple[str, ...] = ()) -> Path:
    """Writes the report of a launch, finished or not; `out` is a file in the folder by default.

    Raises:
        UsageError: The folder is not that of a launch, no trial is finished, or the file cannot be written.
    """
    plan, trials, *_ = read_launch(folder, trusted)
    summary = read_summary(plan, trials, *_known(folder / SUMMARY))
    if not any(row["num_finished"] for row in summary["settings"]):
        raise UsageError(
            f"{folder}: no trial is finished; continue with: nas launch --resume {folder}{trust_words(trusted)}"
        )
    if form == "html":
        chance = random_curve(Table.load(folder / BASELINE / TABLE)) if summary["baseline"] is not None else []
        text = page(f"{folder.name}: launch", _html(folder, summary, read_curves(plan, trials), chance, trusted))
    elif form == "md":
        text = _markdown(folder, summary, trusted)
    elif form == "csv":
        text = csv_text(numbers(summary))
    else:
        text = latex_table(*cells(summary))
    target = out if out is not None else folder / ENDINGS[form]
    with writing_for_user(target):
        write_atomic(target, text)
    return target


def _known(path: Path) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The failures and the summary of random search in a launch's summary.json, if it is written."""
    if not path.is_file():
        return {}, None
    content = read_json(path, "")
    try:
        failed, random = content["failed"], content["baseline"]
        numbers = [] if random is None else [random["num"], random["seconds_per_training"], random["test"]["mean"]]
        spread = None if random is None else random["test"]["std"]
        intact = all(type(value) in (int, float) for value in (*numbers, *([] if spread is None else [spread])))
        intact = intact and all(isinstance(reason, str) for reason in failed.values())
    except (AttributeError, KeyError, TypeError):
        intact = False
    if not intact:
        raise UsageError(f"{path}: damaged: failed or baseline is not what a launch writes")
    return failed, random


def random_curve(found: Table) -> list[tuple[float, float]]:
    """(number of trainings, expected test score) of random search."""
    validation, test = found.random_sample()
    return [(num, best_of(validation, test, num)) for num in range(1, len(test) + 1)]


def problems(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(reason, names) of the trials without a result."""
    part = summary["settings"][0]["part"]
    seconds = "train_seconds" if part == "test" else "search_seconds"
    result: dict[str, list[str]] = {}
    for row in summary["trials"]:
        if part in row:
            continue
        reason = "not finished"
        if seconds in row:
            reason = f"the {part} {summary['metric']} is not a finite number"
        elif row["name"] in summary["failed"]:
            reason = summary["failed"][row["name"]]
        elif "stopped_after" in row:
            reason = f"stopped after {row['stopped_after']} epochs"
        result.setdefault(reason, []).append(row["name"])
    return [(reason, ", ".join(names)) for reason, names in result.items()]


def _choices(summary: Mapping[str, Any]) -> dict[str, Cells]:
    """Method -> head and rows of what each seed chose."""
    result = {}
    for method in summary["settings"]:
        rows = [row for row in summary["trials"] if row["method"] == method["method"] and "genotype" in row]
        if rows:
            head = ["choice", "agreement", *(f"seed {row['seed']}" for row in rows)]
            chosen = [[choice.name, f"{choice.share:.0%}", *choice.labels] for choice in chosen_of(rows)]
            result[method["method"]] = (head, chosen)
    return result


def _html(
    folder: Path,
    summary: Mapping[str, Any],
    curves: Curves,
    chance: list[tuple[float, float]],
    trusted: tuple[str, ...],
) -> Iterator[str]:
    whole = cells(summary)
    order = [row["method"] for row in summary["settings"]]
    yield f"<h1>{escape(folder.name)}</h1>"
    yield from (table(rows, head, "numbers") for head, rows in split(whole))
    yield from (f"<p>{escape(note)}</p>" for note in (_NOTE, *summary["notes"]))
    if found := problems(summary):
        yield f"<h2>Trials without a result</h2>{table(found)}"
    yield f"<h2>Curves of the searches</h2><p>{_CURVES}</p>"
    yield f'<div class="curves">{"".join(_curves(curves, order))}</div>'
    metric = whole[0][2]
    if pictures := draw_costs(summary["settings"], metric, chance):
        yield "<h2>Result and cost</h2>"
        yield from (
            figure_of(figure, f"{metric} ± standard deviation over seeds, against cost.", "large")
            for figure in pictures
        )
    yield "<h2>What each seed chose</h2>"
    for name, (head, rows) in _choices(summary).items():
        yield f"<h3>{escape(name)}</h3>{table(rows, head, 'numbers')}"
    yield f"<h2>Methods</h2>{table(_settings(summary), ('method', 'changes'))}"
    yield f"<h2>How to continue</h2>{code(_command(folder, trusted))}"


def _curves(curves: Curves, order: Sequence[str]) -> Iterator[str]:
    for tag, found in curves.items():
        bands = {name: [point[:3] for point in points] for name, points in found.items()}
        yield from (figure_of(figure, caption_of(tag)) for figure in draw_bands(bands, order, tag))


def _markdown(folder: Path, summary: Mapping[str, Any], trusted: tuple[str, ...]) -> str:
    parts = [f"# {escaped(folder.name)}", markdown_table(*cells(summary)), *map(escaped, (_NOTE, *summary["notes"]))]
    if found := problems(summary):
        parts += ["## Trials without a result", markdown_table(("reason", "trials"), found)]
    parts.append("## What each seed chose")
    for name, chosen in _choices(summary).items():
        parts += [f"### {escaped(name)}", markdown_table(*chosen)]
    parts += ["## Methods", markdown_table(("method", "changes"), _settings(summary))]
    parts += ["## How to continue", fenced(_command(folder, trusted), "sh")]
    return "\n\n".join(parts) + "\n"


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(row["method"], choices_text(row["settings"]) or "none") for row in summary["settings"]]


def _command(folder: Path, trusted: tuple[str, ...]) -> str:
    return f"nas launch --resume {folder}{trust_words(trusted)}"
