"""Converts figures to SVG."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure


def svg_text(figure: Figure) -> str:
    """A figure as SVG whose labels stay text; equal figures give equal SVG."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nas", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
