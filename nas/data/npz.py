"""Data from arrays in a file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from nas.data.base import SearchDataModule
from nas.io.reading import MAX_TENSOR_BYTES, check_size

MAX_ARRAYS = 1000
MAX_RATIO = 100
ALWAYS_ALLOWED = 64 * 2**20
_TAIL = 2**16 + 22  # largest size of the end record of a zip file

KEYS = ("x_train", "y_train", "x_test", "y_test")


class Npz(SearchDataModule):
    """Arrays ``x_train, y_train, x_test, y_test`` in one .npz file. Inputs become float32, targets int64 or float32."""

    def __init__(self, path: str, **loading: Any) -> None:
        """Reads and checks the file.

        Args:
            path: The .npz file, written by ``numpy.savez``. The first axis of each array is the sample axis.
            **loading: batch_size and the other arguments of :class:`nas.data.SearchDataModule`.

        Raises:
            ValueError: The file cannot be read, or an array is missing, empty, not numeric, not finite, or has the wrong length.
        """
        super().__init__(**loading)
        self.path = path
        arrays = _load(Path(path))
        self._train = TensorDataset(arrays["x_train"], arrays["y_train"])
        self._held_out = TensorDataset(arrays["x_test"], arrays["y_test"])

    def train_set(self, augment: bool) -> Dataset:
        return self._train

    def test_set(self) -> Dataset:
        return self._held_out


def _load(path: Path) -> dict[str, Tensor]:
    try:
        _check_archive(path)
        with _opened(path) as file:
            missing = [key for key in KEYS if key not in file.files]
            if missing:
                raise ValueError(f"{path}: array {missing[0]!r} is missing; expected {', '.join(KEYS)}")
            arrays = {key: _array(path, file, key) for key in KEYS}
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for part in ("train", "test"):
        num_x, num_y = len(arrays[f"x_{part}"]), len(arrays[f"y_{part}"])
        if num_x != num_y:
            raise ValueError(f"{path}: x_{part} has {num_x} samples but y_{part} has {num_y}")
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise ValueError(
            f"{path}: samples of x_train have shape {tuple(arrays['x_train'].shape[1:])} "
            f"but samples of x_test have shape {tuple(arrays['x_test'].shape[1:])}"
        )
    for key in ("x_train", "x_test"):
        arrays[key] = arrays[key].float()
    return arrays


def _opened(path: Path) -> np.lib.npyio.NpzFile:
    try:
        file = np.load(path, allow_pickle=False)
    except ValueError:  # a file of another format
        file = None
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: not an .npz file")
    return file


def _check_archive(path: Path) -> None:
    """Refuses files of another format, and small files that would fill the memory."""
    size = check_size(path, MAX_TENSOR_BYTES)
    with open(path, "rb") as raw:
        if not zipfile.is_zipfile(raw):
            raise ValueError(f"{path}: not an .npz file")
        raw.seek(max(0, size - _TAIL))
        tail = raw.read()
    directory = tail[tail.rfind(b"PK\x05\x06") :]
    if len(directory) < 12 or int.from_bytes(directory[10:12], "little") > MAX_ARRAYS:
        raise ValueError(f"{path}: more than {MAX_ARRAYS} arrays")
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(MAX_RATIO * size, ALWAYS_ALLOWED):
        raise ValueError(
            f"{path}: the compression ratio is above {MAX_RATIO} ({unpacked} to {size} bytes); save the file without compression "
            "by numpy.savez"
        )


def _array(path: Path, file: Mapping[str, np.ndarray], key: str) -> Tensor:
    try:
        return _tensor(file[key])
    except (ValueError, MemoryError, EOFError, OverflowError, zlib.error) as error:
        reason = "holds Python objects, not numbers" if "pickle" in str(error) else error
        raise ValueError(f"{path}: array {key!r} {reason}") from None


def _tensor(array: np.ndarray) -> Tensor:
    if array.ndim == 0 or len(array) == 0:
        raise ValueError("is empty")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"has type {array.dtype}, expected numbers")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            single = array.astype(np.float32)
        bad = int(single.size - np.isfinite(single).sum())
        if bad:
            raise ValueError(f"holds NaN or infinity ({bad} of {array.size} values, as float32)")
        return torch.from_numpy(single)
    return torch.from_numpy(array.astype(np.int64))
