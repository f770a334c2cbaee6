"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nas.errors import UsageError

MAX_JSON_BYTES = 16 * 2**20


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Writes the whole content of a file through :func:`replacing`."""
    with replacing(Path(path)) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes one JSON file, whole or not at all."""
    write_atomic(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """The object in a JSON file of limited size.

    Args:
        path: The file.
        missing: What to say where there is none.

    Raises:
        UsageError: It is missing, too large, or something else.
    """
    try:
        size = path.stat().st_size
        text = path.read_bytes() if size <= MAX_JSON_BYTES else b""
    except FileNotFoundError:
        raise UsageError(missing) from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if size > MAX_JSON_BYTES:
        raise UsageError(f"{path}: larger than {MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: damaged, not JSON") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: damaged, not an object")
    return content


def _finite(item: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for them."""
    if isinstance(item, Mapping):
        return {key: _finite(value) for key, value in item.items()}
    return None if isinstance(item, float) and not math.isfinite(item) else item


@contextmanager
def replacing(path: Path, keep_as: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and vanishes when it does not.

    Temporary file in the same folder, fsync, rename, fsync of the folder.

    Args:
        path: The target.
        keep_as: Where the target's old content goes, if there is any.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        if keep_as is not None and path.exists():
            os.replace(path, keep_as)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def umask() -> int:
    """The process's file mode mask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
