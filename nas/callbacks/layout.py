"""The layout of TensorBoard's custom scalars."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MAX_SERIES = 8
"""Largest number of lines in a chart whose colors can be distinguished."""

Layout = dict[str, dict[str, list[Any]]]


def custom_scalars(tags: Iterable[str]) -> Layout:
    """Pages Search, Choices, Cost, Training and System, with a chart for each group of the given scalar tags."""
    pages: dict[str, dict[str, list[str]]] = {"Search": {}, "Choices": {}, "Cost": {}, "Training": {}, "System": {}}
    for tag in tags:
        page, chart = _place(tag)
        pages[page].setdefault(chart, []).append(tag)
    return {page: _charts(charts) for page, charts in pages.items() if charts}


def _place(tag: str) -> tuple[str, str]:
    """Page and chart of a tag."""
    level, _, name = tag.partition("/")
    if level == "choice":
        return "Choices", name.rpartition("/")[0]
    if level == "entropy":
        return "Choices", "entropy of each choice (nats)"
    if level == "kind":
        return "Choices", "share of each kind of candidate"
    if level == "cost":
        return "Cost", name.partition("/")[0]
    if level == "system":
        return "System", name
    if level == "gap":
        return "Search", "discretization gap"
    if level == "lr":
        return "Training", "learning rates"
    if level in ("weight", "arch"):
        return "Training" if name == "loss" else "Search", f"{name} of both splits"
    return "Search", name


def _charts(charts: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    """Charts of at most `MAX_SERIES` lines. The plugin expects regular expressions for tags."""
    result: dict[str, list[Any]] = {}
    for name, tags in charts.items():
        parts = [tags[i : i + MAX_SERIES] for i in range(0, len(tags), MAX_SERIES)]
        for i, part in enumerate(parts):
            title = name if len(parts) == 1 else f"{name} ({i + 1} of {len(parts)})"
            result[title] = ["Multiline", [f"^{re.escape(tag)}$" for tag in part]]
    return result
