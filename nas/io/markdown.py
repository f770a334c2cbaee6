"""Markdown that shows names and values as they are, whatever is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells end neither their column nor the line, and open no tag."""
    lines = [_line(head), "|" + "---|" * len(head), *[_line([escaped(text) for text in row]) for row in rows]]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """One line that is no markup: no tag, link, picture, emphasis or code."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\g<0>", line)


def fenced(text: str, kind: str) -> str:
    """A block of code that ends where the text ends, whatever fences are in it.

    Args:
        text: The code.
        kind: Its language.
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"
