"""A lock that keeps two processes from writing into one folder."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nas.io.errors import UsageError, writing_for_user
from nas.io.files import check_no_links, open_own

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks `folder` during the block. The system releases the lock when the process ends.

    The lock is a record lock, not flock: loader processes do not inherit it, so they cannot keep it after their parent was killed. On file
    systems without locks, the block runs without a lock.

    Raises:
        UsageError: The folder contains a link, another process has the lock, or the folder is not writable.
    """
    check_no_links(folder)
    with _lock(folder):
        yield


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while this process has the lock
        os.close(descriptor)


def wait_until_free(folder: Path, seconds: float) -> None:
    """Waits up to `seconds` while another process has the lock of `folder`."""
    end = time.monotonic() + seconds
    while True:
        try:
            with _lock(folder):
                return
        except UsageError:
            if time.monotonic() > end:
                return
        time.sleep(0.1)


def _acquire(path: Path) -> int:
    while True:
        with writing_for_user(path.parent):
            descriptor = open_own(path, os.O_RDWR)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(descriptor, 200).decode(errors="replace").strip()
                os.close(descriptor)
                raise UsageError(f"{path.parent}: in use by {holder or 'another process'}") from None
            return descriptor  # the file system has no locks
        if _is_at(path, descriptor):
            with suppress(OSError):  # a full disk
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
            return descriptor
        os.close(descriptor)  # the previous owner has removed the file


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
