"""Test the network of a run and measure its costs.

The network is the retrained one, or the derived one if there is no retraining.
The costs are parameters, MACs and latency of one sample.
"""

from __future__ import annotations

import argparse
from typing import Any

from nas.cli.parsing import RUN, CommandParser
from nas.cli.printing import print_pairs

PARSER = CommandParser("evaluate", __doc__)
PARSER.add_argument("--run", required=True, **RUN)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluates; returns the figures."""
    from nas.runs.stages.evaluate import evaluate_run

    return evaluate_run(options.run, options.trust_module)


show = print_pairs
