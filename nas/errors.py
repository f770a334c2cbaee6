"""The one error type that means: the user's input is at fault."""

from __future__ import annotations


class UsageError(ValueError):
    """Wrong usage, configuration or input file, noticed before any work began.

    The command line prints its message as one line and exits with code 2. Everything else that goes wrong exits with code 1.
    """
