"""Write the report of a finished run, or of a launch, into one file.

The report of a run has figures, architecture, curves, configuration,
provenance, and the commands that repeat the run. The report of a launch has the
table of its methods, curves, costs, choices and failures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import RUN, CommandParser

PARSER = CommandParser("report", __doc__)
SUBJECT = PARSER.add_mutually_exclusive_group(required=True)
SUBJECT.add_argument("--run", **RUN)
SUBJECT.add_argument("--launch", type=Path, metavar="DIR", help="folder of a launch")
PARSER.add_argument(
    "--format",
    choices=("html", "md", "csv", "latex"),
    default="html",
    help="html: pictures are in the file (default); md: no pictures; csv, latex: the table of a launch alone",
)
PARSER.add_argument("--out", type=Path, metavar="FILE", help="file to write (report.html, ... in the folder)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Writes the report; returns its path."""
    if options.launch is not None:
        from nas.report.launch import write_launch_report

        return {"report": str(write_launch_report(options.launch, options.format, options.out, options.trust_module))}
    if options.format not in ("html", "md"):
        PARSER.error(f"--format {options.format} needs --launch")
    from nas.report.write import write_report

    return {"report": str(write_report(options.run, options.format, options.out, options.trust_module))}


def show(result: dict[str, Any]) -> None:
    """Prints the path."""
    print(result["report"])
