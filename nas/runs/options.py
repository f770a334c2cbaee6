"""The first look at a configuration: whether it can be one at all. No torch here, so that wrong usage is answered at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nas.errors import UsageError

SECTIONS = ("seed_everything", "trainer", "model", "data", "retrain")
MAX_BYTES = 2**20
MAX_ALIASES = 100


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


def trust_words(trusted: tuple[str, ...]) -> str:
    """The ``--trust-module`` words to repeat in a printed command."""
    return "".join(f" --trust-module {name}" for name in trusted)


class _Loader(yaml.SafeLoader):
    """Refuses what safe_load lets through: a key given twice, of which one would be lost, and aliases without end."""

    num_aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.num_aliases += self.check_event(yaml.AliasEvent)
        if self.num_aliases > MAX_ALIASES:
            raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice")
        return super().construct_mapping(node, deep)


_MERGE = "tag:yaml.org,2002:merge"


def check_yaml(path: Path) -> None:
    """Looks at one configuration file.

    Raises:
        UsageError: It cannot be read, is too large, is not YAML, or has keys that a configuration does not have.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{path}: not valid YAML: {error or 'nested too deeply'}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not a configuration; expected the keys {', '.join(SECTIONS)}")
    for key in content:
        if key not in SECTIONS:
            raise UsageError(f"{path}: unknown key {key!r}; expected {', '.join(SECTIONS)}")
