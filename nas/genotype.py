"""The discrete architecture, and its file format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.io.errors import UsageError
from nas.io.files import write_atomic
from nas.io.json_file import Document
from nas.io.reading import MAX_JSON_BYTES, read_text

FILE = Document("a genotype", "gumbel-nas/genotype", checksum=False)
MAX_CHOICES = 20_000
LABEL = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
CHOICE_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,256}")

Label = str | list[str]


@dataclass(frozen=True)
class Genotype:
    """A discrete architecture: one label (or a sorted list of labels, for top-k choices) for every *active* choice.

    Attributes:
        choices: choice name -> label or sorted list of labels.
        space: ``{"class_path", "init_args"}`` of its search space; None if a handwritten file has none.
        probabilities: choice name -> label -> probability at the end of the search.
        cost: cost name -> value.
        provenance: Origin of the genotype: seed, sha256 of the configuration, versions.
    """

    choices: Mapping[str, Label]
    space: Mapping[str, Any] | None = None
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str, str]]:
        """A row of text for each choice: its name, the chosen labels, and their probabilities if known."""
        result = []
        for name, value in self.choices.items():
            known = self.probabilities.get(name, {})
            probabilities = ", ".join(f"{known[label]:.3f}" for label in labels_of(value) if label in known)
            result.append((name, ", ".join(labels_of(value)), probabilities))
        return result

    def to_json(self) -> str:
        """The genotype.json text."""
        return FILE.to_json({"space": self.space, **vars(self)})

    @classmethod
    def from_json(cls, text: str, source: str = "genotype") -> Genotype:
        """Reads and validates genotype.json text.

        Args:
            text: The JSON.
            source: Name of the text in error messages, for example the file name.

        Raises:
            UsageError: The text is not a well-formed genotype; the message names the key or value.
        """
        fields = {}
        for key, value in FILE.parse(text, source).items():
            if key not in cls.__dataclass_fields__:
                raise UsageError(f"{source}: unknown key {key!r}")
            if value is not None:
                if not isinstance(value, dict):
                    raise UsageError(f"{source}: {key} must be an object, got {type(value).__name__}")
                fields[key] = value
        if "choices" not in fields:
            raise UsageError(f"{source}: key 'choices' is missing")
        for key in ("choices", "probabilities"):
            if len(fields.get(key, ())) > MAX_CHOICES:
                raise UsageError(f"{source}: {key} has more than {MAX_CHOICES} choices")
        check_choices(fields["choices"], source)
        if "space" in fields and not _is_dotted(fields["space"].get("class_path")):
            raise UsageError(f"{source}: space.class_path must be the dotted path of a class")
        for name, row in fields.get("probabilities", {}).items():
            if not CHOICE_NAME.fullmatch(name) or not isinstance(row, dict) or not all(map(LABEL.fullmatch, row)):
                raise UsageError(f"{source}: probabilities of choice {name!r:.80} must map labels to numbers")
            if not all(isinstance(p, (int, float)) and 0 <= p <= 1 for p in row.values()):
                raise UsageError(f"{source}: probabilities of choice {name!r} must lie between 0 and 1")
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        """Writes genotype.json atomically."""
        write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Genotype:
        """Reads and validates a genotype.json.

        Raises:
            UsageError: The file cannot be read or is not a genotype.
        """
        return cls.from_json(read_text(path, MAX_JSON_BYTES), str(path))


def check_choices(choices: Any, source: str) -> dict[str, Label]:
    """The choices, if they are well-formed; a UsageError that begins with `source` if not."""
    if not isinstance(choices, dict):
        raise UsageError(f"{source}: choices must be an object, got {choices!r:.80}")
    for name, value in choices.items():
        if not CHOICE_NAME.fullmatch(name):
            raise UsageError(f"{source}: {name!r:.80} is not the name of a choice: it must match {CHOICE_NAME.pattern}")
        if not (isinstance(value, str) or _is_label_list(value)):
            raise UsageError(f"{source}: choice {name!r} must be a label or a sorted list of labels, got {value!r:.80}")
        for label in labels_of(value):
            if not LABEL.fullmatch(label):
                raise UsageError(
                    f"{source}: choice {name!r}: {label!r:.80} is not a label: it must match {LABEL.pattern}"
                )
    return choices


def key_of(choices: Mapping[str, Label]) -> str:
    """A text that identifies an architecture, for any order of the choices."""
    return json.dumps(dict(choices), sort_keys=True)


def labels_of(value: Label) -> list[str]:
    """The labels of a choice, as a list."""
    return [value] if isinstance(value, str) else list(value)


def _is_dotted(value: Any) -> bool:
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def _is_label_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, str) for item in value)
        and value == sorted(set(value))
    )


def choices_text(choices: Mapping[str, Any]) -> str:
    """The labels of an architecture, or the values of settings, in one line."""
    return ", ".join(f"{name}={value}" for name, value in choices.items())
