"""``nas help``."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from nas.cli.parsing import ThinParser

PARSER = ThinParser("help")
PARSER.add_argument("class_path", metavar="CLASS")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Signature and docstrings of the class."""
    from nas.runs.class_paths import import_class

    found = import_class(options.class_path, tuple(options.trust_module))
    return {
        "class": options.class_path,
        "signature": str(inspect.signature(found)).replace("'", ""),
        "doc": inspect.getdoc(found) or "",
        "options": "" if found.__init__ is object.__init__ else inspect.getdoc(found.__init__) or "",  # type: ignore[misc]
    }


def show(result: dict[str, Any]) -> None:
    """The text as it stands in the source."""
    print(f"{result['class']}{result['signature']}\n\n{result['doc']}\n\n{result['options']}".rstrip())
