"""A report as one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

from html import escape

from matplotlib.figure import Figure

from nas.drawing import draw_heat_map, probability_history, svg_text
from nas.io.markdown import escaped, fenced, markdown_table
from nas.report.content import Content, Table
from nas.report.curves import draw_curves

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
"""

_CAPTION = "What was chosen: dark boxes with their probability at the end, or the operations on a cell's edges."


def html_report(content: Content, architecture: Figure) -> str:
    """The whole file.

    Args:
        content: What it says.
        architecture: The picture of the architecture.
    """
    parts = [f"<h1>{escape(content.title)}</h1>", _table(content.facts)]
    if content.retrained:
        parts += ["<h2>Retrained</h2>", _table(content.retrained)]
    if content.genotype.choices:
        parts += ["<h2>Architecture</h2>", _figure(architecture, _CAPTION, "large")]
        parts.append(_choices(content))
    parts.append("<h2>The search</h2>")
    if history := probability_history(content.history, content.genotype.probabilities):
        parts.append(_figure(draw_heat_map(history), "Probability of every candidate over time.", "large"))
    curves = [_figure(figure, name) for name, figure in draw_curves(content.history)]
    parts.append(f'<div class="curves">{"".join(curves)}</div>')
    parts += ["<h2>Repeat it</h2>", _code("\n".join(content.commands))]
    parts += ["<h2>Where it comes from</h2>", _table(content.provenance)]
    parts += ["<h2>Configuration</h2>", _code(content.config)]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(content.title)}</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(rows: Table) -> str:
    cells = "".join(f"<tr><th scope=row>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
    return f'<div class="wide"><table>{cells}</table></div>'


def _choices(content: Content) -> str:
    rows = []
    for name, label, said in content.genotype.rows():
        rows.append(f"<tr><td>{escape(name)}</td><td>{escape(label)}</td><td>{escape(said)}</td></tr>")
    head = "<tr><th>choice</th><th>chosen</th><th>probability</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _figure(figure: Figure, caption: str, kind: str = "") -> str:
    svg = svg_text(figure)
    return f"<figure{f' class={kind}' if kind else ''}>{svg[svg.index('<svg') :]}<figcaption>{escape(caption)}</figcaption></figure>"


def _code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


def markdown_report(content: Content) -> str:
    """The same without pictures, for an appendix."""
    parts = [f"# {escaped(content.title)}", _facts(content.facts)]
    if content.retrained:
        parts += ["## Retrained", _facts(content.retrained)]
    parts += ["## Architecture", markdown_table(("choice", "chosen", "probability"), content.genotype.rows())]
    parts += ["## Repeat it", fenced("\n".join(content.commands), "sh")]
    parts += ["## Where it comes from", _facts(content.provenance)]
    parts += ["## Configuration", fenced(content.config, "yaml")]
    return "\n\n".join(parts) + "\n"


def _facts(rows: Table) -> str:
    return markdown_table(("", ""), rows.items())
