"""Make a trained network smaller within a limit, in one command.

The command searches, fine-tunes, compares, exports and reports.

The network keeps its classes and as much of its weights as the limit allows.
All results are in one run folder. After a stop, the same command continues, or
--run with the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import CONFIG, LIMIT, OVERRIDES, CommandParser, at_least
from nas.cli.printing import print_pairs

PARSER = CommandParser("compress", __doc__, epilog=OVERRIDES, overrides=True)
START = PARSER.add_mutually_exclusive_group(required=True)
START.add_argument("--model", metavar="MODULE:NAME", help="your function or class that makes the network")
START.add_argument("--run", type=Path, metavar="DIR", help="run folder of a compression to continue")
PARSER.add_argument("--weights", type=Path, metavar="FILE", help="state dict: safetensors, or of torch.save")
PARSER.add_argument(
    "--data",
    metavar="MODULE:NAME",
    help="your function that returns (training set, test set), or a data module, or FILE.npz",
)
PARSER.add_argument("--limit", **LIMIT)
PARSER.add_argument("--epochs", type=at_least(1), metavar="N", help="epochs of the fine-tuning (4)")
PARSER.add_argument("--task", metavar="CLASS", help="task, with --model.task.KEY VALUE (nas.tasks.Classification)")
PARSER.add_argument("--example", metavar="MODULE:NAME", help="your function that makes example inputs (first sample)")
PARSER.add_argument("--config", **{**CONFIG, "help": "YAML settings that replace those of the command"})
PARSER.add_argument("--out", type=Path, metavar="DIR", help="run folder (runs/NAME_compress)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compresses, or continues; returns both networks' figures and the files."""
    if options.run is not None:
        own = ("weights", "data", "limit", "epochs", "task", "example", "config", "out", "overrides")
        PARSER.refuse(options, "--run takes everything from its folder", *own)
        from nas.compression.compress import go_on

        folder = go_on(options.run, options.trust_module)
    else:
        if options.data is None or not options.limit:
            PARSER.error("--model needs --data and --limit, for example --limit macs=0.5")
        from nas.compression.compress import start
        from nas.compression.config import Compression

        wanted = Compression(
            model=options.model,
            data=options.data,
            limits=dict(options.limit),
            weights=options.weights,
            example=options.example,
            task=options.task,
            epochs=options.epochs,
            files=tuple(map(Path, options.config)),
            overrides=options.overrides,
            trusted=options.trust_module,
        )
        folder, _ = start(wanted, options.out)
    from nas.runs.compared import read_compared

    files = {"report": f"{folder.shown}/report.html", "export": f"{folder.shown}/export", "run": folder.shown}
    return {**(read_compared(folder) or {}), **files}


def show(result: dict[str, Any]) -> None:
    """Prints the networks side by side, and the files."""
    from nas.runs.compared import rows_of

    print_pairs({name: f"{before} -> {after} ({change})" for name, before, after, change in rows_of(result)})
    print_pairs({"report": result["report"], "export": result["export"], "run folder": result["run"]})
