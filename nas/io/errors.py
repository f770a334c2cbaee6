"""Errors and their messages for users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_CHARACTERS = 1000
"""Largest length of a message."""


def shown(text: str) -> str:
    """One line for a terminal, with control characters escaped so that they cannot move the cursor or change the title."""
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def shortened(text: str) -> str:
    """The text, without the middle if it is longer than `MAX_CHARACTERS`."""
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def describe(error: BaseException) -> str:
    """The message of an error in one line, with the type of the error if the message alone is unclear."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = shortened(" ".join(str(error).split()))
    return (
        text
        if isinstance(error, (ValueError, OSError, RuntimeError, ArithmeticError)) and text
        else f"{type(error).__name__}: {text}"
    )


def first_line(error: BaseException) -> str:
    """The first line of a message that has many, or the type of the error."""
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)


class UsageError(ValueError):
    """Wrong usage, configuration or input file, found before the work begins.

    The command line prints the message in one line and exits with code 2. Other errors exit with code 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


@contextmanager
def writing_for_user(path: Path) -> Iterator[None]:
    """Reports an error of the operating system as a UsageError that names the file or folder, which the user has chosen."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None


@contextmanager
def as_usage_error(where: str = "") -> Iterator[None]:
    """Reports every error in the block as a UsageError whose message begins with `where`.

    Use it only while no file of the run has been written.
    """
    try:
        yield
    except Exception as error:
        raise UsageError(f"{where}: {describe(error)}" if where else describe(error)) from error
