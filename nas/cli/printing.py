"""Plain lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """One ``key: value`` line each; floats with four significant digits, integers with separators."""
    for key, value in pairs.items():
        print(f"{key}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
