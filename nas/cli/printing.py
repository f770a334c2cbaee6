"""Result lines of commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.genotype import choices_text
from nas.io.errors import shown

NUM_PRINTED = 3
"""Number of probable architectures in the result lines."""


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Prints a line ``key: value`` for each pair: floats with four significant digits, integers with separators."""
    for key, value in pairs.items():
        print(shown(f"{key}: {text_of(value)}"))


def outcome_lines(result: Mapping[str, Any]) -> dict[str, str]:
    """The lines that apply to a derived architecture: constant output, targets, rank, skip guard, and a better architecture."""
    from nas.derive.stability import stability_text
    from nas.runs.targets import target_lines

    lines = {}
    if result.get("beats_constant") is False:
        lines["learned nothing"] = f"the best constant output has {text_of(result['metric']['constant'])}"
    lines |= target_lines(result["target"])
    if (known := result.get("distribution")) is not None and not known["says_nothing"]:
        for place, entry in enumerate(known["most_probable"][:NUM_PRINTED], 1):
            lines[f"architecture {place}, probability {entry['probability']:.3f}"] = choices_text(entry["choices"])
    elif known is not None:
        lines["alpha"] = "does not decide: all architectures are about equally probable"
    if (stability := result.get("stability")) is not None:
        lines["stability"] = stability_text(stability)
    if (rank := result.get("standing")) is not None:
        lines["rank in the table of this space"] = (
            f"{rank['rank']} of {rank['num']} by {rank['value']:.4f} in validation, {rank['regret']:.4f} from the best"
        )
    if (replaced := result.get("replaced")) is not None:
        lines["replaced by model.guards.max_skip_share"] = choices_text(replaced)
    if (better := result.get("best_so_far")) is not None:
        lines["earlier most probable architecture, better on the arch split"] = choices_text(better)
    return lines


def text_of(value: Any) -> str:
    """A figure for people: four significant digits, or separators."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == round(value) and 1 <= abs(value) < 2**53 else f"{value:.4g}"
    return str(value)
