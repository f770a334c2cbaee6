"""The first look at a configuration: whether it can be one at all. No torch here, so that wrong usage is answered at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nas.io.errors import UsageError
from nas.io.json_file import given_twice
from nas.io.reading import MAX_CONFIG_BYTES, read_text

SECTIONS = ("seed_everything", "trainer", "model", "data", "retrain")
KEY = re.compile(rf"({'|'.join(SECTIONS[1:])})(\.[A-Za-z_]\w*)*\+?")
GROUPS = ("trainer", "model", "model.guards", "retrain")
"""Sections that are set key by key: a text in the place of one would be taken for the name of a file to read."""
MAX_VALUES = 2_000
"""Keys and values of a configuration."""
MAX_DEPTH = 100
"""Levels of mappings and lists in it."""


class ConfigSource(NamedTuple):
    """Where a configuration comes from.

    Attributes:
        files: YAML files; later ones win.
        overrides: ``--KEY VALUE`` words, winning over the files.
        trusted: The user's own modules that it may name.
    """

    files: tuple[Path, ...]
    overrides: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last file's name without its ending: what the run folder is called."""
        return self.files[-1].stem

    def overridden(self, key: str, value: Any) -> ConfigSource:
        """The same with one more override."""
        text = value if isinstance(value, str) else json.dumps(value)
        return self._replace(overrides=(*self.overrides, f"--{key}={text}"))


def check_key(key: str, source: str) -> None:
    """Refuses what is no key of a setting, such as an option of a command.

    Raises:
        UsageError: It is none; the message begins with `source`.
    """
    if not KEY.fullmatch(key):
        raise UsageError(f"{source}: {key!r:.80} is not a key of {', '.join(SECTIONS[1:])}")


def normalized(values: Any) -> Any:
    """Plain values without empty ``init_args``: a class without arguments may be written either way."""
    if isinstance(values, dict):
        kept = {key: value for key, value in values.items() if not ("class_path" in values and _is_empty(key, value))}
        return {key: normalized(value) for key, value in kept.items()}
    return [normalized(value) for value in values] if isinstance(values, list) else values


def _is_empty(key: str, value: Any) -> bool:
    return key == "init_args" and not value


def trust_words(trusted: tuple[str, ...]) -> str:
    """The ``--trust-module`` words to repeat in a printed command."""
    return "".join(f" --trust-module {name}" for name in trusted)


class _Loader(yaml.SafeLoader):
    """Refuses what safe_load lets through: a key given twice, of which one would be lost, and small texts of a huge content."""

    num_values = depth = 0

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _check_size(node)
        return node

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError("nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        if len(set(keys)) < len(keys):
            raise yaml.YAMLError(f"key {given_twice(keys)!r:.120} is given twice")
        return super().construct_mapping(node, deep)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    if not node.value:
        raise yaml.YAMLError("a whole number without digits")
    number = loader.construct_yaml_int(node)
    if abs(number) >= 2**63:
        raise yaml.YAMLError(f"{node.value[:20]}... is larger than any number that a configuration has")
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def _check_size(root: yaml.Node) -> None:
    """Counts the values below a node, those behind an alias as often as it is used."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            children = (
                [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            )
            below = 0 if isinstance(node, yaml.ScalarNode) else sum(map(size, children))
            if below > MAX_VALUES:
                raise yaml.YAMLError(
                    f"more than {MAX_VALUES} values, those behind aliases counted as often as they are used"
                )
            sizes[id(node)] = 1 + below
        known = sizes[id(node)]
        if known is None:
            raise yaml.YAMLError("a value that contains itself")
        return known

    size(root)


_MERGE = "tag:yaml.org,2002:merge"


def check_texts(value: Any, source: str) -> None:
    """Refuses texts inside of values that become huge by their aliases: the parser reads them as YAML once more.

    Raises:
        UsageError: There is one; the message begins with `source`.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            check_texts(item, source)
    elif isinstance(value, str) and ("&" in value or "*" in value):
        try:
            check_texts(yaml.load(value, _Loader), source)
        except Exception as error:
            if "*" in value and "&" in value:
                raise UsageError(f"{source}: {value!r:.40}: {' '.join(str(error).split())}") from None


def check_yaml(path: Path) -> dict[str, Any]:
    """The checked content of one configuration file.

    Raises:
        UsageError: The file cannot be read, is too large, is not YAML, or has keys that a configuration does not have.
    """
    text = read_text(path, MAX_CONFIG_BYTES)
    try:
        content = yaml.load(text, _Loader)
    except Exception as error:  # constructors of tags raise whatever they meet
        said = " ".join(str(error).split())
        raise UsageError(f"{path}: not valid YAML: {said or 'nested too deeply'}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a configuration; expected the keys {', '.join(SECTIONS)}")
    for key in content:
        if key not in SECTIONS:
            raise UsageError(f"{path}: unknown key {key!r}; expected {', '.join(SECTIONS)}")
    check_texts(content, str(path))
    model = content.get("model")
    guards = model.get("guards") if isinstance(model, dict) else None
    for key, value in {**content, "model.guards": guards}.items():
        if isinstance(value, str) and key in GROUPS:  # the parser would read a file of that name
            raise UsageError(f"{path}: {key} must be a mapping of keys to values, got {value!r:.80}")
    return content
