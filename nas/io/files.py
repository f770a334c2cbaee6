"""Writing files so that a reader sees the old content or the new, never half of it."""

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
    """A file to write that takes the place of `path` when the block ends well, and vanishes when it does not.

    Temporary file in the same folder, fsync, rename, fsync of the folder.

    Args:
        path: The target.
        keep_as: Where the target's old content goes, if there is any.
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
    """Gives errors of the system the name of the file that was written, which they lack or have of a temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that gets the name `path` when the block ends well, with all its files, and vanishes when it does not.

    Args:
        path: The name; nothing may have it.

    Raises:
        UsageError: Something has the name, or no folder can be made there.
    """
    with _refusing(path):
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists already")
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY))
    try:
        yield folder
        folder.chmod(0o777 & ~umask())
        for file in folder.iterdir():
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
    """Refuses a folder with a symbolic link in it: what it points to would be written.

    Raises:
        UsageError: Naming the link.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(parent, name)):
                raise UsageError(
                    f"{os.path.join(parent, name)}: a link; nothing is written into a folder that has links"
                )


def open_own(path: str | Path, flags: int) -> int:
    """``os.open`` of a file that is made where there is none, and that has no other name; for ``open(opener=...)`` too.

    Raises:
        OSError: It is a link, has a second (hard) link, or is a pipe or a device.
    """
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags | os.O_CREAT, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file of one name", str(path))
    return descriptor


def remove_temporary_files(folder: Path) -> None:
    """Removes what processes that were killed while writing into `folder` have left."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
