"""Python processes that this process starts: their imports, and their end with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PARENT = "NAS_PARENT"
"""Environment variable: the parent process, whose end also ends this process."""

_PR_SET_PDEATHSIG = 1


def python_command(module: str, function: str, *words: str) -> list[str]:
    """A command that calls a function of an installed package, and imports nothing from the working directory.

    ``python -m`` would search the working directory first, where a foreign folder may hold a file ``yaml.py``.

    Args:
        module: Dotted path of the module.
        function: A function without arguments.
        *words: Its ``sys.argv[1:]``.
    """
    root = str(Path(__file__).parents[1])  # of this package, should it not be installed
    code = f"import sys; sys.path = [*filter(None, sys.path), {root!r}]; from {module} import {function}; {function}()"
    return [sys.executable, "-c", code, *words]


def stop_with_parent() -> None:
    """Where ``NAS_PARENT`` names this process's parent, lets the system send SIGTERM when the parent ends for any reason.

    The variable is removed, so that it does not reach processes that this process starts. Does nothing outside Linux.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if str(os.getppid()) != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGTERM)
