"""``nas export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser, config_source
from nas.io.errors import UsageError

PARSER = ThinParser("export", overrides=True)
PARSER.add_argument("--run", type=Path, metavar="DIR")
PARSER.add_argument("--genotype", type=Path, metavar="FILE")
PARSER.add_config()
PARSER.add_argument("--verify", type=Path, metavar="DIR")
PARSER.add_argument("--formats", metavar="A,B")
PARSER.add_argument("--fold-bn", action="store_true")
PARSER.add_argument("--out", type=Path, metavar="DIR")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Exports or verifies; returns what was checked.

    Raises:
        ValueError: An export does not hold.
    """
    chosen = [name for name in ("run", "genotype", "verify") if getattr(options, name) is not None]
    if len(chosen) != 1:
        raise UsageError("nas export: one of --run DIR, --genotype FILE with --config FILE, and --verify DIR is needed")
    if others and not options.genotype:
        raise UsageError(f"nas export: unrecognised arguments: {' '.join(others)}")
    if options.verify is not None:
        return _verify(options)
    if options.genotype is not None and not (options.config and options.out):
        raise UsageError("nas export: --genotype FILE needs --config FILE and --out DIR")
    if options.run is not None and options.config:
        raise UsageError("nas export: --run takes its configuration from the run folder; leave out --config")
    source = config_source(options, others) if options.genotype else None
    from nas.export.formats import DEFAULT
    from nas.runs.stages.export import export_genotype, export_run

    formats = DEFAULT if options.formats is None else [name for name in options.formats.split(",") if name]
    if source is not None:
        return export_genotype(options.genotype, source, formats, options.out, fold_bn=options.fold_bn)
    trusted = tuple(options.trust_module)
    return export_run(options.run, formats, options.out, fold_bn=options.fold_bn, trusted=trusted)


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    if options.formats or options.fold_bn or options.out or options.config:
        raise UsageError("nas export: --verify checks a folder as it is; leave out the rest")
    from nas.export.verify import complaints, verify

    report = verify(options.verify)
    if wrong := complaints(report):
        raise ValueError(f"{options.verify}: does not hold: {'; '.join(wrong)}")
    return {"export": str(options.verify), "verified": report}


def show(result: dict[str, Any]) -> None:
    """A line for each format."""
    for name, row in result["verified"].items():
        print(f"{name}: {row['detail']}")
    for name, why in result.get("refused", {}).items():
        print(f"{name}: refused: {why}")
    print(f"export folder: {result['export']}")
