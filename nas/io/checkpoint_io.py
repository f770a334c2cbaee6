"""Checkpoint files that are whole or absent, and whose content is verified before it is used.

A file is the output of ``torch.save``, followed by a line ``sha256:<hex>`` of this output, which ``torch.load`` ignores. The previous
checkpoint is kept beside it.
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
    """The part of a binary file that torch.save needs, hashing on the way."""

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
    """Writes `path`; its old content becomes ``previous.ckpt`` in the same folder.

    Temporary file beside the target, fsync, rename: after any interruption there is a whole ``last.ckpt`` or ``previous.ckpt``.

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
    """Reads and verifies `path`; where that is damaged or missing, ``previous.ckpt`` beside it, with a warning.

    Args:
        path: The checkpoint.
        map_location: As for ``torch.load``.
        fall_back: Whether the previous checkpoint may be read, unlike for the result of a finished run.

    Raises:
        ValueError: No file is whole.
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
        raise ValueError("refused: it holds more than tensors and plain values") from None
    except (RuntimeError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"refused: not a checkpoint: {describe(error)}") from None
    if not isinstance(state, dict):
        raise ValueError("refused: not a checkpoint")
    return state


def _check_archive(path: Path, size: int) -> None:
    """Refuses archives that torch.save does not write, and that would fill the memory from a small file."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        raise ValueError("refused: not a checkpoint") from None
    if unpacked > size:
        raise ValueError(f"refused: it unpacks to {unpacked} bytes, more than it has")


class VerifiedCheckpointIO(CheckpointIO):
    """Lightning's interface to :func:`save` and :func:`load`, for local paths only."""

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
