"""Train random architectures of a space, as a baseline for searches.

Each architecture is trained twice as 'nas retrain' does: on three quarters of
the training set for validation, and on all of it for the test. The command
prints mean and standard deviation, and the best architecture in validation.
After a stop, the same command continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import CONFIG, CommandParser, config_source
from nas.cli.printing import print_pairs
from nas.genotype import choices_text

PARSER = CommandParser("baseline", __doc__, overrides=True)
PARSER.add_argument("--config", required=True, **CONFIG)
PARSER.add_argument("--num", type=int, required=True, metavar="N", help="number of architectures")
PARSER.add_argument("--out", type=Path, metavar="DIR", help="folder (runs/CONFIG_NAME_baseline)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Trains; returns the summary."""
    source = config_source(options)
    from nas.runs.stages.baseline import baseline

    folder, summary = baseline(source, options.num, options.out)
    return {"baseline": str(folder), **summary}


def show(result: dict[str, Any]) -> None:
    """Prints the figures."""
    metric, best = result["metric"], result["best"]
    lines = {
        f"{part} {metric}, mean ± std of {result['num']}": f"{result[part]['mean']:.4f} ± {result[part]['std']:.4f}"
        for part in ("validation", "test")
    }
    lines |= {f"{part} {metric} of the best in validation": f"{best[part]:.4f}" for part in ("validation", "test")}
    lines["best in validation"] = choices_text(best["genotype"])
    lines["one training"] = f"{result['seconds_per_training']:.1f} s"
    lines["folder"] = result["baseline"]
    print_pairs(lines)
