"""Derive the architecture again from a finished or running search.

The command reads the last checkpoint and writes nothing into the run folder.
Limits that are given replace those of the search.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import LIMIT, RUN, CommandParser
from nas.cli.printing import outcome_lines, print_pairs
from nas.genotype import labels_of

ARGUMENTS = """\
--strategy.KEY VALUE sets an argument of the strategy:
  nas derive --run DIR --strategy nas.derive.Ranked --strategy.num 64
Without --strategy, it changes an argument of the configuration's strategy.
'nas help CLASS' prints the arguments of a class."""

PARSER = CommandParser("derive", __doc__, epilog=ARGUMENTS, overrides=True)
PARSER.add_argument("--run", required=True, **RUN)
PARSER.add_argument(
    "--strategy",
    metavar="CLASS",
    help="class path of a derive strategy, or {class_path: CLASS, init_args: {KEY: VALUE}} (the configuration's)",
)
PARSER.add_argument("--limit", **LIMIT)
PARSER.add_argument("--out", type=Path, metavar="FILE", help="file to write the genotype to")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Derives; returns genotype and score."""
    unknown = [word for word in options.overrides if word.startswith("--") and not word.startswith("--strategy.")]
    if unknown:
        PARSER.error(f"unrecognized arguments: {' '.join(unknown)}")
    from nas.runs.stages.derive import derive_run

    limits = dict(options.limit)
    return derive_run(
        options.run,
        strategy=options.strategy,
        arguments=options.overrides,
        limits=limits,
        out=options.out,
        trusted=options.trust_module,
    )


def show(result: dict[str, Any]) -> None:
    """Prints the choices and the score."""
    metric = result["metric"]
    choices = {name: ", ".join(labels_of(value)) for name, value in result["genotype"].items()}
    score = {f"{metric['name']} (inherited weights, arch split)": metric["value"]}
    print_pairs({**choices, **score, **outcome_lines(result)})
