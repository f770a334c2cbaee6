"""The options of commands. This module does not import torch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from nas.io.errors import UsageError
from nas.runs.options import ConfigSource

OVERRIDES = """\
--KEY VALUE overrides a key of the configuration: --trainer.max_epochs 20
sections:     seed_everything, trainer, model, data, retrain
common keys:  trainer.max_epochs, model.space, model.relaxation, model.tau,
              model.derive, model.cost, data, retrain.trainer, retrain.optimizer
'nas search --help' describes the keys. 'nas help CLASS' prints the options of a
class: nas help nas.tau.Exponential. --print_config prints the resolved
configuration and ends."""

Option = dict[str, Any]
RUN: Option = {"type": Path, "metavar": "DIR", "help": "run folder of a search or a retraining"}
GENOTYPE: Option = {
    "type": Path,
    "metavar": "FILE",
    "help": "genotype.json, or an architecture in the published notation of the space",
}
CONFIG: Option = {
    "action": "append",
    "default": [],
    "metavar": "FILE",
    "help": "YAML configuration; may be repeated, later files win",
}
FORCE: Option = {
    "action": "store_true",
    "help": "accept changed configuration, versions and modules",
}


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not COST=VALUE with a value above 0, such as macs=0.5")
    return name, number


LIMIT: Option = {
    "action": "append",
    "default": [],
    "type": _limit,
    "metavar": "COST=VALUE",
    "help": "macs, params, activations or latency (ms); up to 1: a share; may be repeated",
}


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; its errors are :class:`UsageError`.

    `overrides` accepts ``--KEY VALUE`` words for the configuration; `trust` accepts ``--trust-module``.
    """

    def __init__(
        self,
        command: str,
        description: str | None,
        *,
        epilog: str | None = None,
        overrides: bool = False,
        trust: bool = True,
    ) -> None:
        super().__init__(
            prog=f"nas {command}",
            description=description,
            epilog=epilog or (OVERRIDES if overrides else None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._overrides = overrides
        common = self.add_argument_group("common options")
        if trust:
            common.add_argument(
                "--trust-module",
                action="append",
                default=[],
                type=_module_name,
                metavar="NAME",
                help="let the configuration name classes of this module, which may be in the working directory; may be repeated",
            )
        common.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
        common.add_argument("--debug", action="store_true", help="print the traceback of an error")

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Returns the options; ``overrides`` holds the words that override the configuration."""
        options, others = self.parse_known_args(words) if self._overrides else (self.parse_args(words), [])
        options.overrides = tuple(others)
        options.trust_module = tuple(getattr(options, "trust_module", ()))
        return options

    def refuse(self, options: argparse.Namespace, reason: str, *names: str) -> None:
        """Refuses the options in `names`; the UsageError begins with `reason` and lists all of them that are given."""
        given = [f"--{name.replace('_', '-')}" for name in names if name != "overrides" and getattr(options, name)]
        if "overrides" in names:
            given += options.overrides
        if given:
            self.error(f"{reason}; leave out {' '.join(given)}")

    def error(self, message: str) -> NoReturn:
        """Reports wrong usage."""
        raise UsageError(f"{self.prog}: {message}")


def config_source(options: argparse.Namespace) -> ConfigSource:
    """The configuration of ``--config`` and the override words; a UsageError if a file is not a configuration."""
    source = ConfigSource(tuple(map(Path, options.config)), options.overrides, options.trust_module)
    _ = source.contents  # reports errors of the files before torch is imported
    return source


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of an option: an integer of at least `minimum`."""

    def integer(text: str) -> int:
        if (value := int(text)) < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    return integer


def _module_name(text: str) -> str:
    if not all(part.isidentifier() for part in text.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a module name: write dots for folders, and no .py")
    return text
