"""Serve TensorBoard on 127.0.0.1 for all runs of a folder.

The command sets the options of TensorBoard that runs need, prints the address,
and runs until Ctrl-C. For the folder of a launch it shows the pages of the
launch: curves of its methods, and results. DIR/trials shows its searches.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import CommandParser

PARSER = CommandParser("dashboard", __doc__, trust=False)
PARSER.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (runs)")
PARSER.add_argument("--port", type=int, metavar="N", help="port to listen on (a free one)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Serves until the user interrupts."""
    if options.port is not None and not 1 <= options.port <= 65535:
        PARSER.error(f"--port must lie in 1 ... 65535, got {options.port}")
    from nas.report.tensorboard import HOST, free_port, pages_of, serve

    port = options.port or free_port()
    folder, page = pages_of(options.folder)
    process = serve(folder, port)
    print(f"http://{HOST}:{port}/{page}  ({folder}; stop with Ctrl-C)", flush=True)
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code != 0:
        raise ValueError(f"TensorBoard ended with exit code {code}; is port {port} in use?")
    return {"url": f"http://{HOST}:{port}/{page}"}


def show(result: dict[str, Any]) -> None:
    """Prints nothing, because the address was printed at the start."""
