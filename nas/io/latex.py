"""LaTeX in which all names and values appear unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
}


def latex_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A ``tabular`` with the rules of booktabs: the first column to the left, the others to the right."""
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", _line(head), r"\midrule"]
    return "\n".join([*lines, *map(_line, rows), r"\bottomrule", r"\end{tabular}"]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    """One line; a minus sign before a number, and no dashes in place of two hyphens."""
    signs = "".join(_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
    return re.sub(r"^-(?=\d)", "$-$", re.sub("-(?=-)", "-{}", signs))
