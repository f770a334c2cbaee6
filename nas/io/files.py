"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nas.io.errors import UsageError

MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_KEYS = 100_000
CHECKSUM = "checksum"
_TEMPORARY = ".tmp"


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Writes the whole content of a file through :func:`atomic_file`."""
    with atomic_file(Path(path)) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes one JSON file with a checksum, whole or not at all."""
    write_atomic(path, with_checksum(content))


def with_checksum(content: Mapping[str, Any]) -> str:
    """JSON text with the key ``checksum`` added: the SHA-256 of the rest."""
    plain = json.loads(to_json(content))
    return to_json({**plain, CHECKSUM: _checksum(plain)})


def to_json(content: Mapping[str, Any]) -> str:
    """JSON text. NaN and infinity become null, as JSON does not know them."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def verify_checksum(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The content without its checksum, which is compared where there is one.

    Args:
        content: What a JSON file holds.
        source: What messages call it.

    Raises:
        UsageError: It is not what was written.
    """
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    if CHECKSUM in content and content[CHECKSUM] != _checksum(rest):
        raise UsageError(
            f"{source}: damaged, or edited since it was written ({CHECKSUM} differs); if you edited it, remove its key {CHECKSUM!r}"
        )
    return rest


def _checksum(content: Mapping[str, Any]) -> str:
    """Of the values, however they are laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def size_of(path: Path) -> int:
    """The size of a file in bytes.

    Raises:
        OSError: There is none, or it is a pipe or a device, which may have no end.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return found.st_size


def read_json(path: Path, missing: str, max_bytes: int | None = None) -> dict[str, Any]:
    """The object in a JSON file of limited size.

    Args:
        path: The file.
        missing: What to say where there is none.
        max_bytes: Larger ones are refused unread; None: `MAX_JSON_BYTES`.

    Raises:
        UsageError: It is missing, too large, something else, or not what was written.
    """
    max_bytes = MAX_JSON_BYTES if max_bytes is None else max_bytes
    try:
        size = size_of(path)
        text = path.read_bytes() if size <= max_bytes else b""
    except FileNotFoundError:
        raise UsageError(missing) from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if size > max_bytes:
        raise UsageError(f"{path}: larger than {max_bytes} bytes")
    try:
        content = parse_json(text.decode("utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: damaged, not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: damaged, not an object")
    return verify_checksum(content, str(path))


def parse_json(text: str) -> Any:
    """The content of a JSON text.

    Raises:
        ValueError: It is none, is nested too deeply, has a key twice, an object of too many keys, or a number that JSON does not know
            or 64 bits do not hold.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_JSON_KEYS:
        raise ValueError(f"an object of more than {MAX_JSON_KEYS} keys")
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError(f"duplicate key {given_twice(key for key, _ in pairs)!r:.120}")
    for key, value in pairs:
        if not _in_range(value):
            raise ValueError(f"{key!r:.120} has a number that is out of range")
    return result


def _in_range(value: Any) -> bool:
    """Whether a float holds it, where it is a number or has some."""
    if isinstance(value, list):
        return all(map(_in_range, value))
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, float) or math.isfinite(value)


def given_twice(keys: Iterable[Any]) -> Any:
    """The first key that is there more than once."""
    counts = Counter(keys)
    return next(key for key, count in counts.items() if count > 1)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _finite(item: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for them."""
    if isinstance(item, Mapping):
        return {key: _finite(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_finite(value) for value in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item


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
