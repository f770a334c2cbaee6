"""Writes a report as one HTML file that loads no other file, or as Markdown."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Literal

from nas.drawing import distribution_pictures, draw_cuts, search_pictures
from nas.drawing.architecture import Cells
from nas.io.errors import writing_for_user
from nas.io.files import write_atomic
from nas.io.markdown import escaped, fenced, markdown_table
from nas.report.content import Content, read_content
from nas.report.curves import curve_pictures
from nas.report.html import code, figure_of, gallery, page, table
from nas.runs.compared import cut_rows, rows_of, sentence_of
from nas.runs.spaces import load_space_of

_CUTS = "What is left of each group of channels or heads, and of each block: dark is kept."
_COMPARED = ("", "before", "after", "change")
_PROBABLE = ("place", "architecture", "probability", "loss on the arch split")
_HEAD = ("choice", "chosen", "probability")


def write_report(path: Path, form: Literal["html", "md"], out: Path | None, trusted: tuple[str, ...] = ()) -> Path:
    """Writes the report of a finished run; `out` is ``report.html`` or ``report.md`` in the run folder by default.

    Raises:
        UsageError: The run is not finished, or the file cannot be written.
    """
    content = read_content(path, trusted)
    if form == "html":
        folder = content.folder
        cells = {} if folder.is_own_code else load_space_of(folder.source(trusted)).cells(content.genotype.choices)
        text = _html(content, cells)
    else:
        text = _markdown(content)
    target = out if out is not None else content.folder.path / f"report.{form}"
    with writing_for_user(target):
        write_atomic(target, text)
    return target


def _html(content: Content, cells: Cells) -> str:
    parts = [f"<h1>{escape(content.title)}</h1>"]
    if content.compared:
        parts += [f"<p>{escape(sentence_of(content.compared))}</p>", table(rows_of(content.compared), _COMPARED)]
        parts += ["<h2>What was cut</h2>", figure_of(draw_cuts(content.compared["cuts"]), _CUTS)]
        parts.append("<h2>The found architecture</h2>")
    parts.append(table(content.facts.items()))
    if content.retrained:
        parts += ["<h2>Retrained</h2>", table(content.retrained.items())]
    parts.append("<h2>Architecture</h2>")
    parts += gallery(search_pictures(content.searching, content.genotype, cells))
    parts.append(table(content.genotype.rows(), _HEAD))
    if content.searching:
        parts += ["<h2>The search</h2>", *gallery(curve_pictures(content.searching))]
    if content.decided:
        parts.append(table(content.probable, _PROBABLE))
        decided = content.decided
        parts += gallery(distribution_pictures(decided["moments"], decided["scored"], content.marked))
    if content.retraining:
        parts += ["<h2>The retraining</h2>", *gallery(curve_pictures(content.retraining))]
    if content.commands:
        parts += [f"<h2>{content.commands_title}</h2>", code("\n".join(content.commands))]
    parts += ["<h2>Provenance</h2>", table(content.provenance.items())]
    parts += ["<h2>Configuration</h2>", code(content.config)]
    return page(content.title, parts)


def _markdown(content: Content) -> str:
    parts = [f"# {escaped(content.title)}"]
    if content.compared:
        parts += [escaped(sentence_of(content.compared)), markdown_table(_COMPARED, rows_of(content.compared))]
        parts += ["## What was cut", markdown_table(("part", "kept", "of"), cut_rows(content.compared))]
        parts.append("## The found architecture")
    parts.append(markdown_table(("", ""), content.facts.items()))
    if content.retrained:
        parts += ["## Retrained", markdown_table(("", ""), content.retrained.items())]
    parts += ["## Architecture", markdown_table(_HEAD, content.genotype.rows())]
    if content.probable:
        parts += ["## Most probable architectures", markdown_table(_PROBABLE, content.probable)]
    if content.commands:
        parts += [f"## {content.commands_title}", fenced("\n".join(content.commands), "sh")]
    parts += ["## Provenance", markdown_table(("", ""), content.provenance.items())]
    parts += ["## Configuration", fenced(content.config, "yaml")]
    return "\n\n".join(parts) + "\n"
