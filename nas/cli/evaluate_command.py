"""``nas evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser
from nas.cli.printing import print_pairs

PARSER = ThinParser("evaluate")
PARSER.add_argument("--run", type=Path, required=True, metavar="DIR")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Evaluates; returns the figures."""
    from nas.runs.stages.evaluate import evaluate_run

    return evaluate_run(options.run, tuple(options.trust_module))


def show(result: dict[str, Any]) -> None:
    """The figures, a line each."""
    print_pairs(result)
