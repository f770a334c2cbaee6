"""Reads files of limited size, so that a file from elsewhere cannot fill the memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from nas.io.errors import UsageError

MAX_CONFIG_BYTES = 2**20
MAX_NOTATION_BYTES = 2**16
"""Limit for a genotype in a space's published notation."""
MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_KEYS = 100_000
"""Limit for one object."""
MAX_LATENCY_BYTES = 64 * 2**20
MAX_COST_TABLE_BYTES = 256 * 2**20
MAX_CSV_BYTES = 2**30
MAX_CSV_ROW_BYTES = 2**20
MAX_TENSOR_BYTES = 64 * 2**30
"""Limit for a checkpoint, the weights of an export, or a dataset in one file."""


def size_of(path: Path) -> int:
    """The size of a regular file in bytes; raises OSError for missing files, folders, pipes and devices."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return found.st_size


def check_size(path: Path, max_bytes: int) -> int:
    """:func:`size_of` a file; raises ValueError if the file is larger than `max_bytes`."""
    if (size := size_of(path)) > max_bytes:
        raise ValueError(f"{path}: larger than {max_bytes} bytes")
    return size


def read_text(path: str | Path, max_bytes: int, missing: str | None = None) -> str:
    """The UTF-8 text of a file of at most `max_bytes`.

    Raises:
        UsageError: The file cannot be read, is too large, or is not text. `missing` is the message for a missing file.
    """
    path = Path(path)
    try:
        check_size(path, max_bytes)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        absent = isinstance(error, FileNotFoundError) and missing
        raise UsageError(absent or f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
