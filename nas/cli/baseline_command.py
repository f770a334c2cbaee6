"""``nas baseline``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser, config_source
from nas.cli.printing import choices_text, print_pairs
from nas.io.errors import UsageError

PARSER = ThinParser("baseline", overrides=True)
PARSER.add_config()
PARSER.add_argument("--num", type=int, required=True, metavar="N")
PARSER.add_argument("--out", type=Path, metavar="DIR")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Trains; returns the summary."""
    if not options.config:
        raise UsageError("nas baseline: --config FILE is needed")
    source = config_source(options, others)
    from nas.runs.stages.baseline import baseline

    folder, summary = baseline(source, options.num, options.out)
    return {"baseline": str(folder), **summary}


def show(result: dict[str, Any]) -> None:
    """The figures, a line each."""
    metric, best = result["metric"], result["best"]
    lines = {
        f"{part} {metric}, mean ± std of {result['num']}": f"{result[part]['mean']:.4f} ± {result[part]['std']:.4f}"
        for part in ("validation", "test")
    }
    lines |= {f"{part} {metric} of the one best in validation": f"{best[part]:.4f}" for part in ("validation", "test")}
    lines["best in validation"] = choices_text(best["genotype"])
    lines["one training"] = f"{result['seconds_per_training']:.1f} s"
    lines["folder"] = result["baseline"]
    print_pairs(lines)
