"""Plain lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.io.errors import shown


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """One ``key: value`` line each; floats with four significant digits, integers with separators."""
    for key, value in pairs.items():
        print(shown(f"{key}: {_text(value)}"))


def standing_line(result: Mapping[str, Any]) -> dict[str, str]:
    """Where the architecture stands in the table of its space; nothing where there is none."""
    standing = result.get("standing")
    if standing is None:
        return {}
    text = f"{standing['rank']} of {standing['num']} by {standing['value']:.4f} in validation, {standing['regret']:.4f} below the best"
    return {"rank in the table of this space": text}


def better_line(result: Mapping[str, Any]) -> dict[str, str]:
    """An architecture that was the most probable one earlier and does better; nothing where there is none."""
    better = result.get("best_so_far")
    if better is None:
        return {}
    return {"does better on the arch half, and was the most probable one earlier": choices_text(better)}


def replaced_line(result: Mapping[str, Any]) -> dict[str, str]:
    """The architecture that the skip guard replaced; nothing where it did not act."""
    replaced = result.get("replaced")
    return {} if replaced is None else {"replaced by model.guards.max_skip_share": choices_text(replaced)}


def constant_line(result: Mapping[str, Any]) -> dict[str, str]:
    """That a derived network is no better than a constant output; nothing where it is, or nobody knows."""
    if result.get("beats_constant") is not False:
        return {}
    return {"learned nothing": f"the best constant output has {_text(result['metric']['constant'])}"}


def choices_text(choices: Mapping[str, Any]) -> str:
    """The labels of an architecture in a line."""
    return ", ".join(f"{name}={value}" for name, value in choices.items())


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == round(value) and abs(value) >= 1 else f"{value:.4g}"
    return str(value)
