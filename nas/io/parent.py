"""Python processes that this one starts: what they import, and that they end with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PARENT = "NAS_PARENT"
"""Environment variable: the process without which this one stops."""

_PR_SET_PDEATHSIG = 1


def python_command(module: str, function: str, *words: str) -> list[str]:
    """A command that calls a function of an installed package, and imports nothing from the working directory.

    ``python -m`` would look there first, where a folder that somebody else made may hold a file called ``yaml.py``.

    Args:
        module: Dotted path of the module.
        function: A function without arguments.
        *words: What it finds as ``sys.argv[1:]``.
    """
    root = str(Path(__file__).parents[1])  # of this package, should it not be installed
    code = f"import sys; sys.path = [*filter(None, sys.path), {root!r}]; from {module} import {function}; {function}()"
    return [sys.executable, "-c", code, *words]


def stop_with_parent() -> None:
    """Where ``NAS_PARENT`` names this process's parent, has the system send SIGTERM as soon as the parent ends, however it ends.

    Processes that this one starts are not meant, so the variable is taken away. Does nothing outside Linux.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if str(os.getppid()) != parent:  # it ended meanwhile
        os.kill(os.getpid(), signal.SIGTERM)
