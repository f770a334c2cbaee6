"""The discrete architecture, and its file format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.io.errors import UsageError
from nas.io.files import CHECKSUM, parse_json, size_of, to_json, write_atomic

FORMAT = "gumbel-nas/genotype"
VERSION = 1
MAX_BYTES = 16 * 2**20
MAX_CHOICES = 20_000
MAX_NOTATION_BYTES = 2**16
"""Of an architecture in a space's published notation."""

LABEL = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
CHOICE_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,256}")

Label = str | list[str]


@dataclass(frozen=True)
class Genotype:
    """A discrete architecture: one label (or a sorted list of labels, for top-k choices) for every *active* choice.

    Attributes:
        choices: choice name -> label or sorted list of labels.
        space: ``{"class_path", "init_args"}`` of the space it belongs to; None when it was written by hand without one.
        probabilities: choice name -> label -> probability at the end of the search.
        cost: cost name -> value.
        provenance: Where it came from: seed, sha256 of the config, versions.
    """

    choices: Mapping[str, Label]
    space: Mapping[str, Any] | None = None
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str, str]]:
        """For people: choice, what was chosen, and how probable that was where it is known."""
        result = []
        for name, value in self.choices.items():
            known = self.probabilities.get(name, {})
            said = ", ".join(f"{known[label]:.3f}" for label in labels_of(value) if label in known)
            result.append((name, ", ".join(labels_of(value)), said))
        return result

    def to_json(self) -> str:
        """The genotype.json text."""
        data = {
            "format": FORMAT,
            "version": VERSION,
            "space": self.space,
            "choices": dict(self.choices),
            "probabilities": self.probabilities,
            "cost": self.cost,
            "provenance": self.provenance,
        }
        return to_json(data)

    @classmethod
    def from_json(cls, text: str, source: str = "genotype") -> Genotype:
        """Reads and validates genotype.json text.

        Args:
            text: The JSON.
            source: What error messages call it, for example the file's name.

        Raises:
            UsageError: Anything that is not a well-formed genotype; the message names the key or value.
        """
        if len(text) > MAX_BYTES:
            raise UsageError(f"{source}: larger than {MAX_BYTES} bytes")
        try:
            data = parse_json(text)
        except ValueError as error:
            raise UsageError(f"{source}: not valid JSON: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UsageError(f'{source}: not a genotype ("format" must be "{FORMAT}")')
        if data.get("version") != VERSION:
            raise UsageError(f"{source}: version {data.get('version')!r} is not supported, expected {VERSION}")
        # a file is made to be edited by hand: the checksum of older ones is not looked at
        allowed = {"format", "version", CHECKSUM, *cls.__dataclass_fields__}
        for key in data:
            if key not in allowed:
                raise UsageError(f"{source}: unknown key {key!r}")
        fields = {key: data[key] for key in cls.__dataclass_fields__ if data.get(key) is not None}
        for key, value in fields.items():
            if not isinstance(value, dict):
                raise UsageError(f"{source}: {key} must be an object, got {type(value).__name__}")
        if "choices" not in fields:
            raise UsageError(f"{source}: key 'choices' is missing")
        for key in ("choices", "probabilities"):
            if len(fields.get(key, ())) > MAX_CHOICES:
                raise UsageError(f"{source}: {key} has more than {MAX_CHOICES} choices")
        for name, value in fields["choices"].items():
            if not CHOICE_NAME.fullmatch(name):
                raise UsageError(
                    f"{source}: {name!r:.80} is not the name of a choice: it must match {CHOICE_NAME.pattern}"
                )
            if not (isinstance(value, str) or _is_label_list(value)):
                raise UsageError(
                    f"{source}: choice {name!r} must be a label or a sorted list of labels, got {value!r:.80}"
                )
            for label in labels_of(value):
                if not LABEL.fullmatch(label):
                    raise UsageError(
                        f"{source}: choice {name!r}: {label!r:.80} is not a label: it must match {LABEL.pattern}"
                    )
        space = fields.get("space")
        if space is not None and not _is_dotted(space.get("class_path")):
            raise UsageError(f"{source}: space.class_path must be the dotted path of a class")
        for name, row in fields.get("probabilities", {}).items():
            if not CHOICE_NAME.fullmatch(name) or not isinstance(row, dict) or not all(map(LABEL.fullmatch, row)):
                raise UsageError(f"{source}: probabilities of choice {name!r:.80} must map labels to numbers")
            if not all(isinstance(p, (int, float)) and 0 <= p <= 1 for p in row.values()):
                raise UsageError(f"{source}: probabilities of choice {name!r} must lie between 0 and 1")
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        """Writes genotype.json, whole or not at all."""
        write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Genotype:
        """Reads and validates a genotype.json.

        Raises:
            UsageError: The file cannot be read or is no genotype.
        """
        return cls.from_json(read_text(path), str(path))


def key_of(choices: Mapping[str, Label]) -> str:
    """One text for each architecture, whatever the order of its choices."""
    return json.dumps(dict(choices), sort_keys=True)


def labels_of(value: Label) -> list[str]:
    """The labels that a choice has: one, or several where several are chosen."""
    return [value] if isinstance(value, str) else list(value)


def read_text(path: str | Path) -> str:
    """The text of a genotype's file.

    Raises:
        UsageError: It cannot be read, is too large, or is not text.
    """
    path = Path(path)
    try:
        if size_of(path) > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: {reason}") from None


def _is_dotted(value: Any) -> bool:
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def _is_label_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, str) for item in value)
        and value == sorted(set(value))
    )
