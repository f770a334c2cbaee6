"""``nas derive``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser
from nas.cli.printing import print_pairs, standing_line
from nas.genotype import labels_of

PARSER = ThinParser("derive")
PARSER.add_argument("--run", type=Path, required=True, metavar="DIR")
PARSER.add_argument("--strategy", metavar="CLASS")
PARSER.add_argument("--out", type=Path, metavar="FILE")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Derives; returns genotype and score."""
    from nas.runs.stages.derive import derive_run

    return derive_run(options.run, strategy=options.strategy, out=options.out, trusted=tuple(options.trust_module))


def show(result: dict[str, Any]) -> None:
    """The choices and the score, a line each."""
    from nas.runs.targets import target_lines

    metric = result["metric"]
    choices = {name: ", ".join(labels_of(value)) for name, value in result["genotype"].items()}
    print_pairs(
        choices
        | {f"{metric['name']} (inherited weights, arch half)": metric["value"]}
        | target_lines(result["target"])
        | standing_line(result)
    )
