"""Run a search for every combination of method, setting and seed.

Each search has its own run folder in DIR/trials, and continues from its
checkpoint if it fails or is killed. The result is a table of the methods.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.cli.parsing import CONFIG, CommandParser, at_least, config_source
from nas.cli.printing import print_pairs
from nas.io.errors import shown
from nas.launch.methods import read_methods
from nas.launch.options import ENGINES, make_engine, parse_budget, parse_seeds, parse_settings

PARSER = CommandParser("launch", __doc__, overrides=True)
START = PARSER.add_mutually_exclusive_group(required=True)
START.add_argument("--config", **CONFIG)
START.add_argument("--resume", type=Path, metavar="DIR", help="folder of a launch to continue")
PARSER.add_argument("--methods", type=Path, metavar="FILE", help="YAML: method -> keys that it changes")
PARSER.add_argument("--seeds", metavar="A-B", help="values of seed_everything: 0-9, or 0,3,5")
PARSER.add_argument(
    "--set",
    action="append",
    default=[],
    metavar="KEY=V,W",
    help="values of a key: model.noise=batch,sample; repeatable",
)
PARSER.add_argument("--budget", metavar="UNIT=N", help="equal epochs (epochs=40) or cost (trainings=4)")
PARSER.add_argument(
    "--engine",
    choices=ENGINES,
    default="local",
    help="local: processes (default); ray: Ray Tune; slurm: submitit",
)
PARSER.add_argument(
    "--job",
    action="append",
    default=[],
    metavar="KEY=V",
    help="resources of a search, may be repeated; ray: num_cpus=1, num_gpus=1; "
    "slurm: timeout_min=240, slurm_partition=gpu, ...; cluster=local: this machine",
)
PARSER.add_argument(
    "--address",
    metavar="HOST:PORT",
    help="Ray cluster of this file system (one on this machine)",
)
PARSER.add_argument("--asha", action="store_true", help="with ray: stop searches of high loss early")
PARSER.add_argument(
    "--num-parallel", type=at_least(1), metavar="N", help="searches at once (1; ray: as the CPUs and GPUs allow)"
)
PARSER.add_argument("--max-failures", type=at_least(0), default=3, metavar="N", help="allowed failures of a search (3)")
PARSER.add_argument("--retrain", action="store_true", help="retrain and test each architecture that is found")
PARSER.add_argument("--baseline", type=at_least(0), default=0, metavar="N", help="train N random architectures, too")
PARSER.add_argument(
    "--table", type=Path, metavar="FILE", help="own or NAS-Bench-Macro table for ranks, see 'nas lookup --help'"
)
PARSER.add_argument("--out", type=Path, metavar="DIR", help="new folder (runs/CONFIG_NAME_launch)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Starts or continues a launch; returns the summary."""
    if options.resume is not None:
        reason = "--resume takes the searches from its folder"
        PARSER.refuse(
            options, reason, "methods", "seeds", "set", "budget", "table", "out", "retrain", "baseline", "overrides"
        )
    elif options.seeds is None:
        PARSER.error("--config FILE needs --seeds A-B")
    else:
        source, seeds = config_source(options), parse_seeds(options.seeds)
        settings = parse_settings(options.set)
        methods = None if options.methods is None else read_methods(options.methods)
        budget = None if options.budget is None else parse_budget(options.budget)
        if options.asha and budget is not None:
            PARSER.error("--asha stops searches early, so it does not go with --budget")
    names = ("job", "num_parallel", "max_failures", "address", "asha")
    engine = make_engine(options.engine, **{name: getattr(options, name) for name in names})
    from nas.cli.launch_progress import lines, live, quiet
    from nas.launch.launch import failure_text, launch, resume_launch

    progress = quiet if options.json else live if sys.stderr.isatty() else lines
    if options.resume is not None:
        folder, summary = resume_launch(options.resume, engine, options.trust_module, progress)
    else:
        stages = {
            "retrain": options.retrain,
            "num_baseline": options.baseline,
            "methods": methods,
            "budget": budget,
            "table": options.table,
        }
        folder, summary = launch(source, seeds, settings, engine, options.out, progress=progress, **stages)
    result = {"launch": str(folder), **summary}
    if summary["failed"]:
        if not options.json:
            show(result)
        raise RuntimeError(failure_text(folder, summary))
    return result


def show(result: dict[str, Any]) -> None:
    """Prints a row for each method, and one for random architectures; what does not fit a terminal is a table of its own."""
    from rich.console import Console

    from nas.launch.table import cells, split

    whole = cells(result)
    natural = sum(max(map(len, column)) + 3 for column in zip(whole[0], *whole[1], strict=True)) + 1
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, natural)
    for part in [whole] if natural <= console.width else split(whole):
        console.print(_table(*part))
    for note in result["notes"]:
        print(shown(f"note: {note}"))
    print_pairs({"folder": result["launch"], "report": f"nas report --launch {result['launch']}"})


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Column, Table

    table = Table(Column(head[0], overflow="fold"), *(Column(text, justify="right") for text in head[1:]), box=SIMPLE)
    for row in rows:
        table.add_row(*map(shown, row))
    return table
