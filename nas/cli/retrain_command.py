"""Train the derived network on all training data and test it once.

With --run, the result goes to the folder "retrain" in the run folder.
With --genotype, the configuration of the space is needed too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import CONFIG, FORCE, GENOTYPE, RUN, CommandParser, config_source
from nas.cli.printing import print_pairs

PARSER = CommandParser("retrain", __doc__, overrides=True)
SOURCE = PARSER.add_mutually_exclusive_group(required=True)
SOURCE.add_argument("--run", **RUN)
SOURCE.add_argument("--genotype", **GENOTYPE)
PARSER.add_argument("--config", **CONFIG)
PARSER.add_argument("--seed", type=int, metavar="N", help="seed of weights and data order (seed_everything)")
PARSER.add_argument("--inherit", action="store_true", help="start from the weights of the search")
PARSER.add_argument("--out", type=Path, metavar="DIR", help="new folder")
PARSER.add_argument("--force", **FORCE)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Retrains; returns the summary."""
    shared = {"seed": options.seed, "out": options.out, "force": options.force}
    if options.run is not None:
        PARSER.refuse(options, "--run takes the configuration from the run folder", "config", "overrides")
        from nas.runs.stages.retrain import retrain_run

        folder = retrain_run(options.run, inherit=options.inherit, trusted=options.trust_module, **shared)
    else:
        PARSER.refuse(options, "--inherit needs --run, for the weights of a search", "inherit")
        if not options.config:
            PARSER.error("--genotype FILE needs --config FILE")
        source = config_source(options)
        from nas.runs.stages.retrain import retrain_genotype

        folder = retrain_genotype(options.genotype, source, **shared)
    return {"run": folder.shown, **folder.read_summary()}


def show(result: dict[str, Any]) -> None:
    """Prints the figures."""
    print_pairs({key: value for key, value in result.items() if key not in ("genotype", "stage")})
