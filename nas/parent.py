"""A command that does not outlive the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "NAS_PARENT"
"""Environment variable: the process without which this one stops."""

_PR_SET_PDEATHSIG = 1


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
