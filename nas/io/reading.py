"""Reading files of limited size, so that a foreign file cannot fill the memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from nas.io.errors import UsageError

MAX_CONFIG_BYTES = 2**20
MAX_NOTATION_BYTES = 2**16
"""Of an architecture in a space's published notation."""
MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_KEYS = 100_000
"""Of one object."""
MAX_LATENCY_BYTES = 64 * 2**20
MAX_COST_TABLE_BYTES = 256 * 2**20
MAX_CSV_BYTES = 2**30
MAX_CSV_ROW_BYTES = 2**20
MAX_TENSOR_BYTES = 64 * 2**30
"""Of a checkpoint, an export's weights, or a data set in one file."""


def size_of(path: Path) -> int:
    """The size of a file in bytes.

    Raises:
        OSError: There is no file, or it is a pipe or a device, which may have no end.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return found.st_size


def check_size(path: Path, max_bytes: int) -> int:
    """The size of a file in bytes, as :func:`size_of`.

    Raises:
        ValueError: The file is larger than `max_bytes`.
    """
    if (size := size_of(path)) > max_bytes:
        raise ValueError(f"{path}: larger than {max_bytes} bytes")
    return size


def read_text(path: str | Path, max_bytes: int, missing: str | None = None) -> str:
    """The UTF-8 text of a file of at most `max_bytes`.

    Raises:
        UsageError: The file cannot be read, is too large, or is not text. `missing` is the message where there is no file.
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
