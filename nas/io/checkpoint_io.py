"""Atomic checkpoint files with a checksum, which is verified before the content is used.

A file is the output of ``torch.save`` and a line ``sha256:<hex>`` with the checksum of this output. ``torch.load`` ignores the line. The
previous checkpoint stays in the same folder.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning_fabric.plugins import CheckpointIO

from nas.io.errors import describe
from nas.io.files import atomic_file
from nas.io.reading import MAX_TENSOR_BYTES, size_of

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
_MARK = b"sha256:"
_TRAILER = len(_MARK) + 64 + 1


class _HashingFile:
    """A binary file for torch.save that hashes the written bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:  # torch raises a RuntimeError without the reason
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save(state: dict[str, Any], path: Path) -> None:
    """Writes `path` atomically; its old content becomes ``previous.ckpt`` in the same folder.

    After any interruption, ``last.ckpt`` or ``previous.ckpt`` is intact.

    Raises:
        OSError: The disk is full, for example.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, keep_as=path.with_name(PREVIOUS)) as file:
        hashing = _HashingFile(file)
        try:
            torch.save(state, cast(BinaryIO, hashing))
        except RuntimeError:
            if hashing.error is not None:
                raise hashing.error from None
            raise
        file.write(_MARK + hashing.digest.hexdigest().encode() + b"\n")


def load(path: Path, map_location: Any = "cpu", *, fall_back: bool = True) -> dict[str, Any]:
    """Reads and verifies `path`. If it is damaged or missing, warns and reads ``previous.ckpt`` in the same folder.

    Use ``fall_back=False`` for the result of a finished run, which must not come from the previous checkpoint.

    Raises:
        ValueError: No file is intact.
    """
    reasons = []
    for candidate in (path, path.with_name(PREVIOUS)) if fall_back else (path,):
        try:
            state = _load_verified(candidate, map_location)
        except (OSError, ValueError) as error:
            reasons.append(f"{candidate}: {_reason(error)}")
            continue
        if reasons:
            warnings.warn(f"{reasons[0]}; resuming from {candidate}", stacklevel=2)
        return state
    raise ValueError("; ".join(reasons))


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _load_verified(path: Path, map_location: Any) -> dict[str, Any]:
    size = size_of(path)
    if size > MAX_TENSOR_BYTES:
        raise ValueError(f"larger than {MAX_TENSOR_BYTES} bytes")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(max(0, size - _TRAILER))
        if not file.read().startswith(_MARK):
            raise ValueError("damaged checkpoint (it has no checksum)")
        file.seek(0)
        left = size - _TRAILER
        while left > 0 and (chunk := file.read(min(left, 2**20))):
            digest.update(chunk)
            left -= len(chunk)
        trailer = file.read()
    if trailer != _MARK + digest.hexdigest().encode() + b"\n":
        raise ValueError("damaged checkpoint (checksum does not match)")
    _check_archive(path, size)
    try:
        state: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("refused: the file contains more than tensors and plain values") from None
    except (RuntimeError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"refused: not a checkpoint: {describe(error)}") from None
    if not isinstance(state, dict):
        raise ValueError("refused: not a checkpoint")
    return state


def _check_archive(path: Path, size: int) -> None:
    """Refuses compressed archives: torch.save does not write them, and a small file could fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        raise ValueError("refused: not a checkpoint") from None
    if unpacked > size:
        raise ValueError(f"refused: the file has {size} bytes but unpacks to {unpacked} bytes")


class VerifiedCheckpointIO(CheckpointIO):
    """A Lightning plugin that calls :func:`save` and :func:`load`, for local paths only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes atomically."""
        save(checkpoint, _local(path))

    def load_checkpoint(
        self, path: Any, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads with verification; always with ``weights_only=True``."""
        return load(_local(path), map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Removes one file."""
        _local(path).unlink(missing_ok=True)


def _local(path: Any) -> Path:
    if "://" in str(path):
        raise ValueError(f"checkpoint {path}: only local files are read and written")
    return Path(path)
