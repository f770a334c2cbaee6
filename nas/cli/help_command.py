"""Print the options of a class, or the list of commands.

The class is one that a configuration can name, for example nas.tau.Exponential.
"""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from nas.cli import overview
from nas.cli.parsing import CommandParser

PARSER = CommandParser("help", __doc__)
PARSER.add_argument("class_path", nargs="?", metavar="CLASS", help="dotted path; without it, the commands are listed")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Returns signature and docstrings of the class."""
    if options.class_path is None:
        return {"commands": overview()}
    from nas.runs.class_paths import import_class

    found = import_class(options.class_path, options.trust_module)
    return {
        "class": options.class_path,
        "signature": str(inspect.signature(found)).replace("'", ""),
        "doc": inspect.getdoc(found) or "",
        "options": "" if found.__init__ is object.__init__ else inspect.getdoc(found.__init__) or "",  # type: ignore[misc]
    }


def show(result: dict[str, Any]) -> None:
    """Prints the docstrings as they are in the source."""
    if "commands" in result:
        print(result["commands"])
    else:
        print(f"{result['class']}{result['signature']}\n\n{result['doc']}\n\n{result['options']}".rstrip())
