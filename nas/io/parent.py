"""Child Python processes: their import path, and their end together with the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PARENT = "NAS_PARENT"
"""Environment variable with the ID of the parent process. This process ends when the parent ends."""

_PR_SET_PDEATHSIG = 1


def python_command(module: str, function: str, *words: str) -> list[str]:
    """A command that calls a function without arguments, with `words` as ``sys.argv[1:]``, and ignores the working directory.

    ``python -m`` would first import from the working directory, which may contain a file such as ``yaml.py``.
    """
    root = str(Path(__file__).parents[1])  # for a package that is not installed
    code = f"import sys; sys.path = [*filter(None, sys.path), {root!r}]; from {module} import {function}; {function}()"
    return [sys.executable, "-c", code, *words]


def stop_with_parent() -> None:
    """If ``NAS_PARENT`` is set, the system sends SIGTERM to this process when its parent ends for any reason.

    Removes the variable, so that child processes do not get it. Does nothing outside Linux.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if str(os.getppid()) != parent:  # the parent has ended already
        os.kill(os.getpid(), signal.SIGTERM)
