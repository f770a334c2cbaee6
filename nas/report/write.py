"""Writes a report as one HTML file that loads no other file, or as Markdown."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from nas.drawing import (
    draw_architecture,
    draw_cuts,
    draw_heat_map,
    draw_most_probable,
    draw_scores,
    probability_history,
)
from nas.io.errors import UsageError
from nas.io.files import write_atomic
from nas.io.markdown import escaped, fenced, markdown_table
from nas.report.content import Content, read_content
from nas.report.curves import draw_curves
from nas.report.html import code, figure_of, page, table
from nas.runs.compared import cut_rows, rows_of, sentence_of
from nas.runs.spaces import load_space_of

_CAPTION = "The architecture: chosen candidates are dark, with their final probability; a cell has its operations on its edges."
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
        text = _html(content, draw_architecture(content.genotype, cells))
    else:
        text = _markdown(content)
    target = out if out is not None else content.folder.path / f"report.{form}"
    try:
        write_atomic(target, text)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from None
    return target


def _html(content: Content, architecture: Figure) -> str:
    parts = [f"<h1>{escape(content.title)}</h1>"]
    if content.compared:
        parts += [f"<p>{escape(sentence_of(content.compared))}</p>", table(rows_of(content.compared), _COMPARED)]
        parts += ["<h2>What was cut</h2>", figure_of(draw_cuts(content.compared["cuts"]), _CUTS)]
        parts.append("<h2>The found architecture</h2>")
    parts.append(table(content.facts.items()))
    if content.retrained:
        parts += ["<h2>Retrained</h2>", table(content.retrained.items())]
    if content.genotype.choices:
        parts += ["<h2>Architecture</h2>", figure_of(architecture, _CAPTION, "large")]
        parts.append(table(content.genotype.rows(), _HEAD))
    parts.append("<h2>The search</h2>")
    if history := probability_history(content.history, content.genotype.probabilities):
        parts.append(figure_of(draw_heat_map(history), "Probability of each candidate over time.", "large"))
    if content.decided:
        parts.append(table(content.probable, _PROBABLE))
        moments, scored = content.decided["moments"], content.decided["scored"]
        parts.append(figure_of(draw_most_probable(moments), "The ten most probable architectures over time.", "large"))
        if scored:
            parts.append(figure_of(draw_scores(scored, content.marked), "Every architecture that was scored.", "large"))
    curves = [figure_of(figure, name) for name, figure in draw_curves(content.history)]
    parts.append(f'<div class="curves">{"".join(curves)}</div>')
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
