"""First checks of a configuration. They need no torch import, so usage errors appear immediately."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import yaml

from nas.io.errors import UsageError
from nas.io.json_file import given_twice
from nas.io.reading import MAX_CONFIG_BYTES, read_text

SECTIONS = ("seed_everything", "trainer", "model", "data", "retrain")
OWN_CODE = "own_code"
"""Key in the config.yaml of a search that ran in training code of the user."""
KEY = re.compile(rf"({'|'.join(SECTIONS[1:])})(\.[A-Za-z_]\w*)*\+?")
GROUPS = ("trainer", "model", "model.guards", "retrain")
"""Sections that must be mappings: the parser would treat a string as the name of a file."""
MAX_VALUES = 2_000
"""Largest number of keys and values in a configuration."""
MAX_DEPTH = 100
"""Deepest nesting of mappings and lists."""
_FLOAT = re.compile(
    r"([-+]?(\d[\d_]*\.[\d_]*|\.[\d_]+)([eE][-+]?\d+)?|[-+]?\d[\d_]*[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
"""Floating-point numbers as the parser of configurations reads them: ``1e-3`` is one, other than in YAML 1.1."""
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class ConfigSource:
    """The origin of a configuration.

    Attributes:
        files: YAML files; later files override earlier files.
        overrides: ``--KEY=VALUE`` words that override the files.
        trusted: Modules of the user that the configuration may name.
    """

    files: tuple[Path, ...]
    overrides: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()

    @cached_property
    def contents(self) -> tuple[dict[str, Any], ...]:
        """The content of each file, read once; raises UsageError if a file is not a configuration."""
        return tuple(check_yaml(path) for path in self.files)

    @property
    def is_own_code(self) -> bool:
        """Whether a file belongs to a search in training code of the user."""
        return any(content.get(OWN_CODE) for content in self.contents)

    @property
    def words(self) -> list[str]:
        """The contents and the overrides as words for the parser; raises UsageError for a search in training code of the user."""
        if self.is_own_code:
            raise UsageError(
                f"{self.shown}: this search ran in training code of your own, which resumes it, and trains the found network again "
                "under nas.architecture(nas.Genotype.load(FOLDER/genotype.json))"
            )
        check_texts([word.partition("=")[2] or word for word in self.overrides], "overrides")
        return [*(f"--config={_yaml(content)}" for content in self.contents), *self.overrides]

    @property
    def name(self) -> str:
        """The last file's name without its ending, used for the run folder."""
        return self.files[-1].stem if self.files else "search"

    @property
    def shown(self) -> str:
        """The files, for messages."""
        return ", ".join(map(str, self.files)) or "configuration"

    def overridden(self, key: str, value: Any) -> ConfigSource:
        """A copy with one more override."""
        text = value if isinstance(value, str) else json.dumps(value)
        return self.extended(f"--{key}={text}")

    def merged(self, changes: Mapping[str, Any]) -> ConfigSource:
        """A copy with `changes` as one more file: key, possibly dotted -> value, possibly nested.

        Raises:
            UsageError: A value is not one that YAML can hold, or a key is not a section of configurations.
        """
        source = self
        for key, value in changes.items():
            for word in reversed(key.split(".")):
                value = {word: value}
            check_content(value, "overrides")
            try:
                source = source.extended(f"--config={_yaml(value)}")
            except yaml.YAMLError:
                raise UsageError(
                    f"overrides: {key} has a value that no configuration can have: {value!r:.200}"
                ) from None
        return source

    def extended(self, *words: str) -> ConfigSource:
        """A copy with more override words."""
        return self._changed(overrides=(*self.overrides, *words))

    def trusting(self, modules: Sequence[str]) -> ConfigSource:
        """A copy that trusts more modules."""
        return self._changed(trusted=tuple(dict.fromkeys((*self.trusted, *modules))))

    def _changed(self, **fields: tuple[str, ...]) -> ConfigSource:
        changed = replace(self, **fields)  # type: ignore[arg-type]
        vars(changed)["contents"] = self.contents  # so that no file is read again
        return changed


def check_key(key: str, source: str) -> None:
    """Raises UsageError if `key` is not the key of a setting, for example an option of a command. `source` begins the message."""
    if not KEY.fullmatch(key):
        raise UsageError(f"{source}: {key!r:.80} is not a key of {', '.join(SECTIONS[1:])}")


def normalized(values: Any) -> Any:
    """Plain values without empty ``init_args``, so that both spellings of a class without arguments compare equal."""
    if isinstance(values, dict):
        is_class = "class_path" in values
        return {key: normalized(item) for key, item in values.items() if item or not (is_class and key == "init_args")}
    return [normalized(value) for value in values] if isinstance(values, list) else values


def trust_words(trusted: tuple[str, ...]) -> str:
    """The ``--trust-module`` options of a printed command."""
    return "".join(f" --trust-module {name}" for name in trusted)


class _Loader(yaml.SafeLoader):
    """A safe loader that also refuses duplicate keys, and aliases that expand to huge values."""

    num_values = depth = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias = self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError("nested too deeply")
        before = self.num_values
        node = super().compose_node(parent, index)
        self.depth -= 1
        if not is_alias:
            self.sizes[id(node)] = 1 + self.num_values - before
        elif id(node) not in self.sizes:
            raise yaml.YAMLError("a value that contains itself")
        self.num_values = before + self.sizes[id(node)]
        if self.num_values > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values (an alias counts at each use)")
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
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in ("float", "timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """A safe dumper that writes paths as text."""


_Dumper.add_multi_representer(PurePath, lambda dumper, path: dumper.represent_str(str(path)))


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.dump(dict(content), Dumper=_Dumper, default_flow_style=True, sort_keys=False)


def check_texts(value: Any, source: str) -> None:
    """Raises UsageError for strings that expand to huge values through aliases: the parser reads strings as YAML again."""
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


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises UsageError for invalid YAML, a key that is given twice, and aliases that expand to huge values."""
    text = read_text(path, MAX_CONFIG_BYTES)
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # constructors of tags raise errors of all kinds
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise UsageError(f"{path}: not valid YAML: {reason}") from None


def check_yaml(path: Path) -> dict[str, Any]:
    """The content of a configuration file; raises UsageError if it is not YAML with the keys of a configuration."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a configuration; expected the keys {', '.join(SECTIONS)}")
    check_content(content, str(path))
    return content


def check_content(content: Mapping[str, Any], source: str) -> None:
    """Raises UsageError if `content` has unknown sections, or text where a section must be a mapping. `source` begins the message."""
    for key in content:
        if key not in (*SECTIONS, OWN_CODE):
            raise UsageError(f"{source}: unknown key {key!r}; expected {', '.join(SECTIONS)}")
    check_texts(dict(content), source)
    model = content.get("model")
    guards = model.get("guards") if isinstance(model, dict) else None
    for key, value in {**content, "model.guards": guards}.items():
        if isinstance(value, str) and key in GROUPS:  # the parser would read the file of this name
            raise UsageError(f"{source}: {key} must be a mapping of keys to values, got {value!r:.80}")
