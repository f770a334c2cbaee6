"""Print the rank of an architecture in a table of its space.

The space comes from the genotype, or from --config.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import CONFIG, GENOTYPE, OVERRIDES, RUN, CommandParser, config_source
from nas.cli.printing import print_pairs

TABLES = """\
tables:
  own             JSON file of 'nas baseline' or of scripts/enumerate_space.py
  NAS-Bench-Macro nas-bench-macro_cifar10.json of its repository
  NATS-Bench      file or folder of the topology space; needs --dataset,
                  --trust-module nats_bench, and pip install nats_bench
  NAS-Bench-201   file; needs --dataset, --trust-module nas_201_api, and
                  pip install nas-bench-201
The last two are pickles, which may run code: trust the file first. A table
that --out writes is small, and needs neither trust nor a package.

"""

PARSER = CommandParser("lookup", __doc__, epilog=TABLES + OVERRIDES, overrides=True)
SOURCE = PARSER.add_mutually_exclusive_group(required=True)
SOURCE.add_argument("--run", **RUN)
SOURCE.add_argument("--genotype", **GENOTYPE)
PARSER.add_argument("--config", **CONFIG)
PARSER.add_argument("--table", type=Path, required=True, metavar="FILE", help="table that has the architecture")
PARSER.add_argument(
    "--dataset",
    metavar="NAME",
    help="cifar10-valid, cifar10, cifar100 or ImageNet16-120; for NATS-Bench and NAS-Bench-201",
)
PARSER.add_argument("--out", type=Path, metavar="FILE", help="also write the table to this file, as an own table")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Looks up the architecture; returns its rank, value and distance to the best for validation and test."""
    if options.run is not None:
        PARSER.refuse(options, "--run takes the space from the run folder", "config", "overrides")
    elif not options.config:
        PARSER.refuse(options, "--KEY VALUE goes with --config FILE", "overrides")
    source = config_source(options)
    from nas.runs.stages.lookup import lookup_genotype, lookup_run

    shared = {"dataset": options.dataset, "out": options.out}
    if options.run is None:
        return lookup_genotype(options.genotype, options.table, source, **shared)
    return lookup_run(options.run, options.table, trusted=options.trust_module, **shared)


def show(result: dict[str, Any]) -> None:
    """Prints the table's origin, and three lines for each part that has the architecture."""
    lines = {"table": result["table"]}
    for part, standing in result["standing"].items():
        if standing is not None:
            lines[f"{part} {result['metric']}"] = standing["value"]
            lines[f"rank in {part}"] = f"{standing['rank']:,} of {standing['num']:,}"
            lines[f"distance to the best in {part}"] = standing["regret"]
    print_pairs(lines)
