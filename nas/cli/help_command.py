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
        "options": _constructor_doc(found),
    }


def _constructor_doc(found: type) -> str:
    """The docstring of the constructor itself; those of object and torch's Module say nothing about a class."""
    owner = next(base for base in found.__mro__ if "__init__" in vars(base))
    if owner is object or owner.__module__ == "torch.nn.modules.module":
        return ""
    return inspect.cleandoc(vars(owner)["__init__"].__doc__ or "")


def show(result: dict[str, Any]) -> None:
    """Prints the docstrings as they are in the source."""
    if "commands" in result:
        print(result["commands"])
    else:
        print(f"{result['class']}{result['signature']}\n\n{result['doc']}\n\n{result['options']}".rstrip())
