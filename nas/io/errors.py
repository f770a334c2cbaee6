"""Errors as users see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MAX_CHARACTERS = 1000
"""Of a message."""


def shown(text: str) -> str:
    """One line for a terminal, with control characters written out, so that none moves the cursor or changes a title."""
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def shortened(text: str) -> str:
    """The text; the middle of a long one is left out."""
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def describe(error: BaseException) -> str:
    """One line: the message, with the kind of error where the message alone is not clear."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = shortened(" ".join(str(error).split()))
    return (
        text
        if isinstance(error, (ValueError, OSError, RuntimeError, ArithmeticError)) and text
        else f"{type(error).__name__}: {text}"
    )


class UsageError(ValueError):
    """Wrong usage, configuration or input file, found before the work begins.

    The command line prints the message as one line and exits with code 2. Every other error exits with code 1.
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
