"""Writes a report as one HTML file that loads no other file, or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    svg_text,
)
from nas.io.errors import UsageError
from nas.io.files import write_atomic
from nas.io.markdown import escaped, fenced, markdown_table
from nas.report.content import Content, read_content
from nas.report.curves import draw_curves
from nas.runs.compared import cut_rows, rows_of, sentence_of
from nas.runs.spaces import load_space_of

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2328; --paper: #ffffff; --line: #d5dbe0; --soft: #f4f6f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaed; --paper: #14181b; --line: #3a434a; --soft: #1e2428; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; }
td, th { padding: 0.2rem 0.8rem 0.2rem 0; text-align: left; vertical-align: top; overflow-wrap: break-word; }
.wide { overflow-x: auto; } pre { background: var(--soft); padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; }
figure { margin: 0.8rem 0; overflow-x: auto; background: #ffffff; border: 1px solid var(--line); border-radius: 4px; padding: 0.4rem; }
figure svg { max-width: 100%; height: auto; display: block; margin: 0 auto; } figcaption { color: #1d2328; font-size: 0.85rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0.8rem; }
.curves figure { margin: 0; }
figure.large svg { max-width: max(100%, 36rem); }
@media (max-width: 30rem) { td, th { padding-right: 0.5rem; font-size: 0.85rem; } }
"""

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
        parts += [f"<p>{escape(sentence_of(content.compared))}</p>", _table(rows_of(content.compared), _COMPARED)]
        parts += ["<h2>What was cut</h2>", _figure(draw_cuts(content.compared["cuts"]), _CUTS)]
        parts.append("<h2>The found architecture</h2>")
    parts.append(_table(content.facts.items()))
    if content.retrained:
        parts += ["<h2>Retrained</h2>", _table(content.retrained.items())]
    if content.genotype.choices:
        parts += ["<h2>Architecture</h2>", _figure(architecture, _CAPTION, "large")]
        parts.append(_table(content.genotype.rows(), _HEAD))
    parts.append("<h2>The search</h2>")
    if history := probability_history(content.history, content.genotype.probabilities):
        parts.append(_figure(draw_heat_map(history), "Probability of each candidate over time.", "large"))
    if content.decided:
        parts.append(_table(content.probable, _PROBABLE))
        moments, scored = content.decided["moments"], content.decided["scored"]
        parts.append(_figure(draw_most_probable(moments), "The ten most probable architectures over time.", "large"))
        if scored:
            parts.append(_figure(draw_scores(scored, content.marked), "Every architecture that was scored.", "large"))
    curves = [_figure(figure, name) for name, figure in draw_curves(content.history)]
    parts.append(f'<div class="curves">{"".join(curves)}</div>')
    if content.commands:
        parts += [f"<h2>{content.commands_title}</h2>", _code("\n".join(content.commands))]
    parts += ["<h2>Provenance</h2>", _table(content.provenance.items())]
    parts += ["<h2>Configuration</h2>", _code(content.config)]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(content.title)}</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    lines = ["".join(f"<th>{escape(text)}</th>" for text in head)]
    for name, *cells in rows:
        lines.append(f"<th scope=row>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}")
    return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in lines if line)}</table></div>'


def _figure(figure: Figure, caption: str, kind: str = "") -> str:
    svg = svg_text(figure)
    return f"<figure{f' class={kind}' if kind else ''}>{svg[svg.index('<svg') :]}<figcaption>{escape(caption)}</figcaption></figure>"


def _code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


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
