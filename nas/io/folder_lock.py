"""A lock that keeps two processes from writing into one folder."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nas.io.errors import UsageError
from nas.io.files import check_no_links, open_own

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, in which there are no links, while the block runs. The system frees it when the process ends.

    A record lock, not flock: loader processes do not inherit it, so that they cannot hold it after their parent was killed. Where the
    file system knows no locks, there is none.

    Raises:
        UsageError: There is a link in it, another process has the lock, or the folder cannot be written.
    """
    check_no_links(folder)
    with _held(folder):
        yield


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is ours
        os.close(descriptor)


def wait_until_free(folder: Path, seconds: float) -> None:
    """Waits while another process holds the lock of `folder`, but no longer than so many seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            with _held(folder):
                return
        except UsageError:
            if time.monotonic() > end:
                return
        time.sleep(0.1)


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = open_own(path, os.O_RDWR)
        except OSError as error:
            raise UsageError(f"{path.parent}: cannot be written: {error.strerror}") from None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(descriptor, 200).decode(errors="replace").strip()
                os.close(descriptor)
                raise UsageError(f"{path.parent}: in use by {holder or 'another process'}") from None
            return descriptor  # no locks here
        if _is_at(path, descriptor):
            with suppress(OSError):  # a full disk
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
            return descriptor
        os.close(descriptor)  # its former holder has removed it meanwhile


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
