"""``nas report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser

PARSER = ThinParser("report")
PARSER.add_argument("--run", type=Path, required=True, metavar="DIR")
PARSER.add_argument("--format", choices=("html", "md"), default="html")
PARSER.add_argument("--out", type=Path, metavar="FILE")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Writes the report; returns where."""
    from nas.report.write import write_report

    path = write_report(options.run, options.format, options.out, tuple(options.trust_module))
    return {"report": str(path)}


def show(result: dict[str, Any]) -> None:
    """Where it is."""
    print(result["report"])
