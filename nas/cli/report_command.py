"""Write the report of a finished run into one file.

The report has figures, architecture, curves, configuration, provenance, and
the commands that repeat the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import RUN, CommandParser

PARSER = CommandParser("report", __doc__)
PARSER.add_argument("--run", required=True, **RUN)
PARSER.add_argument(
    "--format",
    choices=("html", "md"),
    default="html",
    help="html: pictures are in the file (default); md: no pictures",
)
PARSER.add_argument(
    "--out", type=Path, metavar="FILE", help="file to write (report.html or report.md in the run folder)"
)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Writes the report; returns its path."""
    from nas.report.write import write_report

    return {"report": str(write_report(options.run, options.format, options.out, options.trust_module))}


def show(result: dict[str, Any]) -> None:
    """Prints the path."""
    print(result["report"])
