"""Words to options, without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from nas.io.errors import UsageError
from nas.runs.options import ConfigSource, check_yaml


class ThinParser(argparse.ArgumentParser):
    """argparse that raises :class:`UsageError`, has no help of its own, and may leave ``--KEY VALUE`` words for the configuration."""

    def __init__(self, command: str, *, overrides: bool = False) -> None:
        """Adds the options that every command has."""
        super().__init__(prog=f"nas {command}", add_help=False, allow_abbrev=False)
        self.overrides = overrides
        self.add_argument("--json", action="store_true")

    def add_config(self) -> None:
        """Adds ``--config``, which :func:`config_source` reads."""
        self.add_argument("--config", action="append", default=[], metavar="FILE")

    def add_trust(self) -> None:
        """Adds ``--trust-module``."""
        self.add_argument("--trust-module", action="append", default=[], metavar="NAME")

    def parse(self, words: list[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
        """Options, and the words that are overrides."""
        options, others = self.parse_known_args(words)
        for name in getattr(options, "trust_module", []):
            if not all(part.isidentifier() for part in name.split(".")):
                raise UsageError(
                    f"{self.prog}: --trust-module {name}: not a module's name (without .py, dots for folders)"
                )
        if others and not self.overrides:
            raise UsageError(f"{self.prog}: unrecognised arguments: {' '.join(others)}")
        return options, tuple(others)

    def error(self, message: str) -> NoReturn:
        """Wrong usage."""
        raise UsageError(f"{self.prog}: {message}")


def config_source(options: argparse.Namespace, others: tuple[str, ...]) -> ConfigSource:
    """The configuration that the options name, first looked at without torch.

    Raises:
        UsageError: A file that cannot be read or is not a configuration.
    """
    files = tuple(Path(path) for path in options.config)
    for path in files:
        check_yaml(path)
    return ConfigSource(files, others, tuple(options.trust_module))
