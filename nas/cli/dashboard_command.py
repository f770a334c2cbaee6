"""``nas dashboard``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser
from nas.io.errors import UsageError

PARSER = ThinParser("dashboard")
PARSER.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="DIR")
PARSER.add_argument("--port", type=int, metavar="N")


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Serves until it is interrupted."""
    if options.port is not None and not 1 <= options.port <= 65535:
        raise UsageError(f"nas dashboard: --port must lie in 1 ... 65535, got {options.port}")
    from nas.report.tensorboard import HOST, free_port, serve

    port = options.port or free_port()
    process = serve(options.folder, port)
    print(f"http://{HOST}:{port}/  ({options.folder}; stop with Ctrl-C)", flush=True)
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code != 0:
        raise ValueError(f"TensorBoard ended with exit code {code}; is port {port} in use?")
    return {"url": f"http://{HOST}:{port}/"}


def show(result: dict[str, Any]) -> None:
    """Nothing: the address was printed at the start."""
