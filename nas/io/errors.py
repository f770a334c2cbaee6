"""Errors as users see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MAX_CHARACTERS = 1000
"""Of a message."""


def shown(text: str) -> str:
    """One line for a terminal: control characters are written out, so that none moves the cursor or changes a title."""
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def shortened(text: str) -> str:
    """The text without its middle, where a value that it repeats is too long to be read."""
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def describe(error: BaseException) -> str:
    """One line: the message, and the kind of error where the message alone would not say what is wrong."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = shortened(" ".join(str(error).split()))
    return (
        text
        if isinstance(error, (ValueError, OSError, RuntimeError, ArithmeticError)) and text
        else f"{type(error).__name__}: {text}"
    )


class UsageError(ValueError):
    """Wrong usage, configuration or input file, noticed before any work began.

    The command line prints its message as one line and exits with code 2. Everything else that goes wrong exits with code 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


@contextmanager
def as_usage_error(where: str = "") -> Iterator[None]:
    """Reports every error of the block as a usage error. Nothing has been written at this point.

    Args:
        where: The beginning of the message.

    Raises:
        UsageError: Its message is that of the error, with the kind of error where it is not a plain ValueError.
    """
    try:
        yield
    except Exception as error:
        raise UsageError(f"{where}: {describe(error)}" if where else describe(error)) from error
