"""``nas search``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser, config_source
from nas.genotype import labels_of
from nas.io.errors import UsageError
from nas.runs.options import trust_words

PARSER = ThinParser("search", overrides=True)
PARSER.add_config()
PARSER.add_argument("--out", type=Path, metavar="DIR")
PARSER.add_argument("--resume", type=Path, metavar="DIR")
PARSER.add_argument("--force", action="store_true")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Searches or resumes; returns the summary, with the run folder and what to do next."""
    trusted = tuple(options.trust_module)
    if options.resume is not None:
        if options.config or options.out or others:
            raise UsageError(
                "nas search: --resume takes everything from its folder; leave out --config, --out and --KEY"
            )
        from nas.runs.stages.search import resume

        folder = resume(options.resume, trusted, force=options.force)
    else:
        if options.force:
            raise UsageError("nas search: --force goes with --resume")
        if not options.config:
            raise UsageError("nas search: --config FILE or --resume DIR is needed")
        source = config_source(options, others)
        from nas.runs.stages.search import search

        folder = search(source, options.out)
    trust = trust_words(trusted)
    return {
        "run": folder.shown,
        **folder.read_summary(),
        "next": [f"nas {command} --run {folder.quoted}{trust}" for command in ("retrain", "evaluate")],
    }


def show(result: dict[str, Any]) -> None:
    """A table of the choices, the figures, and the next commands."""
    from rich.console import Console
    from rich.table import Table

    from nas.cli.printing import better_line, constant_line, replaced_line, standing_line
    from nas.runs.targets import target_lines

    console = Console(highlight=False)
    table = Table("choice", "chosen", "probability", title="architecture")
    for name, label in result["genotype"].items():
        row = result["probabilities"].get(name, {})
        labels = labels_of(label)
        table.add_row(name, ", ".join(labels), ", ".join(f"{row.get(item, float('nan')):.3f}" for item in labels))
    console.print(table)
    metric, cost = result["metric"], result["cost"]
    lines = {
        f"{metric['name']} (inherited weights, arch half)": f"{metric['value']:.4f}",
        **constant_line(result),
        "parameters": f"{cost['params']:,}",
        "MACs": f"{cost['macs']:,}",
        "architectures": f"{result['num_architectures']:,}",
        "search time": f"{result['search_seconds']:.1f} s, of which deriving {result['derive_seconds']:.1f} s",
        **target_lines(result["target"]),
        **standing_line(result),
        **replaced_line(result),
        **better_line(result),
        "run folder": result["run"],
    }
    for key, value in lines.items():
        console.print(f"{key}: {value}", markup=False, soft_wrap=True)
    console.print("next:", *[f"  {command}" for command in result["next"]], sep="\n", markup=False, soft_wrap=True)
