"""JSON files: strict reading, checksums, and documents with a format and a version."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.io import reading
from nas.io.errors import UsageError
from nas.io.files import write_atomic

CHECKSUM = "checksum"


@dataclass(frozen=True)
class Document:
    """A kind of JSON file with the keys ``format`` and ``version``.

    Args:
        name: The name of the kind in messages, for example ``a launch``.
        format: The value of the key ``format``.
        checksum: Whether a checksum is written and compared. Files for manual editing have no checksum.
        version: The value of the key ``version``.
    """

    name: str
    format: str
    checksum: bool = True
    version: int = 1

    def to_json(self, content: Mapping[str, Any]) -> str:
        """The text of a file with this content."""
        return _to_json({"format": self.format, "version": self.version, **content}, with_checksum=self.checksum)

    def save(self, path: str | Path, content: Mapping[str, Any]) -> None:
        """Writes a file atomically."""
        write_atomic(path, self.to_json(content))

    def parse(self, text: str, source: str) -> dict[str, Any]:
        """The content of a JSON text, without format, version and checksum. `source` is the file's name in messages.

        Raises:
            UsageError: The text is too large, damaged, or has another format or version.
        """
        if len(text) > reading.MAX_JSON_BYTES:
            raise UsageError(f"{source}: larger than {reading.MAX_JSON_BYTES} bytes")
        content = _parse(text, source, verify=self.checksum)
        if content.pop("format", None) != self.format:
            raise UsageError(f'{source}: not {self.name} ("format" must be "{self.format}")')
        if (version := content.pop("version", None)) != self.version:
            raise UsageError(f"{source}: version {version!r} is not supported, expected {self.version}")
        return content

    def load(self, path: str | Path, missing: str | None = None) -> dict[str, Any]:
        """The content of a file, without format, version and checksum.

        Raises:
            UsageError: The file cannot be read, or :meth:`parse` fails. `missing` is the message for a missing file.
        """
        return self.parse(reading.read_text(path, reading.MAX_JSON_BYTES, missing), str(path))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file with a checksum atomically."""
    write_atomic(path, _to_json(content, with_checksum=True))


def read_json(path: Path, missing: str, max_bytes: int | None = None) -> dict[str, Any]:
    """The object in a JSON file, without its checksum.

    Raises:
        UsageError: The file cannot be read, is damaged, or has more than `max_bytes` (None: `MAX_JSON_BYTES`). `missing` is the message for
            a missing file.
    """
    return _parse(reading.read_text(path, max_bytes or reading.MAX_JSON_BYTES, missing), str(path))


def _to_json(content: Mapping[str, Any], *, with_checksum: bool) -> str:
    if with_checksum:
        plain = json.loads(_to_json(content, with_checksum=False))
        content = {**plain, CHECKSUM: checksum(plain)}
    return json.dumps(_storable(content), indent=2, allow_nan=False) + "\n"


def _storable(item: Any) -> Any:
    """Replaces NaN and infinity by None, because JSON cannot represent them, and integers of more than 64 bits by the nearest float."""
    if isinstance(item, Mapping):
        return {key: _storable(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_storable(value) for value in item]
    if isinstance(item, int) and not _in_range(item):
        item = float(item) if abs(item) < sys.float_info.max else math.inf
    return None if isinstance(item, float) and not math.isfinite(item) else item


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the values, independent of the layout of the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _parse(text: str, source: str, *, verify: bool = True) -> dict[str, Any]:
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{source}: damaged, not valid JSON: {reason}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{source}: damaged, not an object")
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    if verify and CHECKSUM in content and content[CHECKSUM] != checksum(rest):
        raise UsageError(
            f"{source}: damaged or edited ({CHECKSUM} differs); if you edited the file, remove its key {CHECKSUM!r}"
        )
    return rest


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > reading.MAX_JSON_KEYS:
        raise ValueError(f"an object of more than {reading.MAX_JSON_KEYS} keys")
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError(f"duplicate key {given_twice(key for key, _ in pairs)!r:.120}")
    for key, value in pairs:
        if not _in_range(value):
            raise ValueError(f"{key!r:.120} has a number that is out of range")
    return result


def _in_range(value: Any) -> bool:
    """Whether a number, or every number in a list, fits into 64 bits."""
    if isinstance(value, list):
        return all(map(_in_range, value))
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, float) or math.isfinite(value)


def given_twice(keys: Iterable[Any]) -> Any:
    """The first key that occurs more than once."""
    counts = Counter(keys)
    return next(key for key, count in counts.items() if count > 1)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")
