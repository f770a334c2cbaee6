"""Named methods of a launch: the keys of the configuration that each method changes. This module does not import torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nas.io.errors import UsageError
from nas.io.json_file import given_twice
from nas.runs.options import GROUPS, check_key, check_texts, read_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")


def read_methods(path: Path) -> dict[str, dict[str, str]]:
    """The methods of a YAML file: name -> key -> value as the text of an override, in the order of the file.

    The file maps the name of each method to the keys that it changes. A key is dotted or nested:
    ``darts: {model.relaxation: nas.relaxations.Softmax, trainer: {max_epochs: 40}}``. A method without changes is ``{}``.

    Raises:
        UsageError: The file is not of this form, has a method twice, or names a key that no configuration has.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{path}: must map names of methods to the keys that they change")
    check_texts(content, str(path))
    methods = {}
    for name, changes in content.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(f"{path}: {name!r:.80} is not the name of a method: it must match {NAME.pattern}")
        if not isinstance(changes, dict) or not all(isinstance(key, str) for key in changes):
            raise UsageError(f"{path}: {name}: must map keys to values, got {changes!r:.80}")
        settings = list(_settings(changes, f"{path}: {name}"))
        methods[name] = dict(settings)
        if len(methods[name]) < len(settings):  # once dotted, once nested
            raise UsageError(f"{path}: {name}: {given_twice(key for key, _ in settings)} is given twice")
    return methods


def _settings(changes: Mapping[str, Any], source: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key -> text; mappings of whole sections are taken apart."""
    for word, value in changes.items():
        key = f"{prefix}{word}"
        if key in GROUPS:
            if not isinstance(value, dict):
                raise UsageError(f"{source}: {key} must be a mapping of keys to values, got {value!r:.80}")
            yield from _settings(value, source, f"{key}.")
        else:
            check_key(key, source)
            try:
                yield key, value if isinstance(value, str) else json.dumps(value)
            except TypeError:
                raise UsageError(f"{source}: {key}: {value!r:.80} is not a value of a configuration") from None
