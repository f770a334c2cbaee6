"""``nas retrain``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser, config_source
from nas.cli.printing import print_pairs
from nas.io.errors import UsageError

PARSER = ThinParser("retrain", overrides=True)
PARSER.add_argument("--run", type=Path, metavar="DIR")
PARSER.add_argument("--genotype", type=Path, metavar="FILE")
PARSER.add_config()
PARSER.add_argument("--seed", type=int, metavar="N")
PARSER.add_argument("--inherit", action="store_true")
PARSER.add_argument("--out", type=Path, metavar="DIR")
PARSER.add_argument("--force", action="store_true")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Retrains; returns the summary."""
    if options.run is not None:
        if options.genotype or options.config or others:
            raise UsageError(
                "nas retrain: --run takes genotype and configuration from the run folder; leave out the rest"
            )
        from nas.runs.stages.retrain import retrain_run

        folder = retrain_run(
            options.run,
            seed=options.seed,
            inherit=options.inherit,
            out=options.out,
            trusted=tuple(options.trust_module),
            force=options.force,
        )
    else:
        if not (options.genotype and options.config):
            raise UsageError("nas retrain: --run DIR, or --genotype FILE and --config FILE, are needed")
        if options.inherit:
            raise UsageError("nas retrain: --inherit needs the weights of a run; use --run DIR")
        source = config_source(options, others)
        from nas.runs.stages.retrain import retrain_genotype

        folder = retrain_genotype(options.genotype, source, seed=options.seed, out=options.out, force=options.force)
    return {"run": folder.shown, **folder.read_summary()}


def show(result: dict[str, Any]) -> None:
    """The figures, a line each."""
    print_pairs({key: value for key, value in result.items() if key not in ("genotype", "stage")})
