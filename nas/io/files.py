"""Writes files and folders atomically: completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nas.io.errors import UsageError

_TEMPORARY = ".tmp"


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Writes the whole content of a file through :func:`atomic_file`."""
    with atomic_file(Path(path)) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path, keep_as: Path | None = None) -> Iterator[BinaryIO]:
    """A new file that replaces `path` at the end of the block, or is removed after an error.

    The old content of `path` gets the name `keep_as` (None: it is lost). Steps: temporary file in the same folder, fsync, rename, fsync
    of the folder.
    """
    with naming(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes system errors name `path` instead of no file or a temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that gets the name `path` at the end of the block, or is removed after an error.

    Raises:
        UsageError: The name is taken, or the folder cannot be made.
    """
    with _refusing(path):
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists already")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY))
    try:
        yield folder
        folder.chmod(0o777 & ~umask())
        for file in folder.rglob("*"):
            if file.is_dir():
                file.chmod(0o777 & ~umask())
                continue
            file.chmod(0o666 & ~umask())
            with open(file, "rb") as content:
                os.fsync(content.fileno())
        with _refusing(path):
            os.rename(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sync_folder(path.parent)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be made: {error.strerror}") from None


def check_no_links(folder: Path) -> None:
    """Raises UsageError if a folder contains a symbolic link, because writing would change the link's target."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(parent, name)):
                raise UsageError(f"{os.path.join(parent, name)}: this is a link; the folder must not contain links")


def open_own(path: str | Path, flags: int) -> int:
    """``os.open`` of a new or existing regular file that has one name; also for ``open(opener=...)``.

    Raises:
        OSError: The file is a link, has a second (hard) link, or is a pipe or a device.
    """
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags | os.O_CREAT, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file with one name", str(path))
    return descriptor


def remove_temporary_files(folder: Path) -> None:
    """Removes the temporary files that killed processes left in `folder`."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` durable, if the system supports it."""
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
