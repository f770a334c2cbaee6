"""Parts of an HTML page that loads no other file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.figure import Figure

from nas.drawing import Picture, svg_text
from nas.drawing.choices import WIDTH

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
.curves { align-items: start; margin: 0.8rem 0; }
.curves figure { margin: 0; }
.numbers td, .numbers th { white-space: nowrap; } .numbers table { font-variant-numeric: tabular-nums; }
figure.large { grid-column: 1 / -1; } figure.large svg { max-width: none; }
@media (max-width: 30rem) { td, th { padding-right: 0.5rem; font-size: 0.85rem; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of HTML parts."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), kind: str = "") -> str:
    """A table of text; the first cell of each row is its heading. `kind` ``numbers`` keeps each cell on one line."""
    lines = ["".join(f"<th>{escape(text)}</th>" for text in head)]
    for name, *cells in rows:
        lines.append(f"<th scope=row>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}")
    return f'<div class="{f"wide {kind}".strip()}"><table>{"".join(f"<tr>{line}</tr>" for line in lines if line)}</table></div>'


def figure_of(figure: Figure, caption: str, kind: str = "") -> str:
    """A figure with a caption; `kind` is its class: ``large`` scrolls a wide picture instead of making it smaller."""
    svg = svg_text(figure)
    return f"<figure{f' class={kind}' if kind else ''}>{svg[svg.index('<svg') :]}<figcaption>{escape(caption)}</figcaption></figure>"


def code(text: str) -> str:
    """A block of code."""
    return f"<pre><code>{escape(text)}</code></pre>"


def gallery(pictures: Iterable[Picture]) -> list[str]:
    """Pictures side by side, then a line that names those left out."""
    known = list(pictures)
    shown = [
        figure_of(one.figure, one.caption, "large" if one.figure.get_figwidth() > WIDTH else "")
        for one in known
        if one.figure is not None
    ]
    reasons: dict[str, list[str]] = {}
    for one in known:
        if one.reason:
            reasons.setdefault(one.reason, []).append(one.tag.removeprefix("search/").replace("_", " "))
    left_out = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    parts = [f'<div class="curves">{"".join(shown)}</div>'] if shown else []
    return parts + ([f"<p>Pictures left out: {escape(left_out)}.</p>"] if left_out else [])
