"""The command line. Help and usage errors do not import torch."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from nas import __version__
from nas.io.errors import UsageError, describe, shown
from nas.io.parent import stop_with_parent

COMMANDS = (
    *("search", "compress", "profile", "derive", "retrain", "baseline", "launch", "evaluate", "lookup"),
    *("export", "dashboard", "report", "compare", "doctor", "help"),
)
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PIPE = 128 + 13
"""Exit code of a program that SIGPIPE ends."""
STOPPING = (signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
"""Signals that end a command; SIGINT is Python's own."""


class Stopped(BaseException):
    """A signal outside of training; the argument is its number."""


def entry() -> NoReturn:
    """The console script. Signals that come after the command are ignored, so that they do not change the exit code."""
    stop_with_parent()
    code = main()
    for signum in (signal.SIGINT, *STOPPING):
        signal.signal(signum, signal.SIG_IGN)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in `argv` (default: the words of this process) and returns its exit code.

    0: done. 1: failed. 2: wrong usage or configuration. 130: SIGINT or SIGUSR1. 143: SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else EXIT_USAGE
    if words[0] == "--version":
        print(f"gumbel-nas {__version__}")
        return 0
    former = _catch_signals()
    warnings_format, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        _run(*words)
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except Stopped as stop:
        return _fail(f"stopped by {signal.Signals(stop.args[0]).name}", _code(stop.args[0]))
    except BrokenPipeError:  # the reader of the output has ended
        sys.stdout = open(os.devnull, "w")
        return EXIT_PIPE
    except SystemExit as stop:  # of argparse after --help or --print_config; with 1 of rich after a broken pipe
        return EXIT_PIPE if stop.code else 0
    except Exception as error:
        if getattr(error, "exit_code", None) == 0:
            return 0
        if "--debug" in words:
            traceback.print_exc()
        if isinstance(error, UsageError):
            return _fail(describe(error), EXIT_USAGE)
        signum = getattr(error, "signum", None)
        return _fail(describe(error), EXIT_FAILED if signum is None else _code(signum))
    finally:
        warnings.formatwarning = warnings_format
        for number, handler in former.items():
            signal.signal(number, handler)


def overview() -> str:
    """The page of ``nas --help``: each command with the first line of its module's docstring."""
    lines = [f"  {name:<10} {_module(name).__doc__.splitlines()[0]}" for name in COMMANDS]
    head = ["usage: nas COMMAND [OPTION]...", "", "Neural architecture search for PyTorch.", ""]
    tail = [
        "",
        "'nas COMMAND --help' describes a command, 'nas help CLASS' a class.",
        "'nas --version' prints the version.",
    ]
    return "\n".join([*head, *lines, *tail])


def _module(command: str) -> Any:
    return import_module(f"nas.cli.{command}_command")


def _run(command: str, *words: str) -> None:
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}; the commands are {', '.join(COMMANDS)}")
    cpp_extension = logging.getLogger("torch.utils.cpp_extension")
    cpp_extension.setLevel(logging.ERROR)  # it warns of absent CUDA on every machine without a GPU
    module = _module(command)
    options = module.PARSER.parse(list(words))
    result: dict[str, Any] = module.run(options)
    if options.json:
        print(json.dumps(result))
    else:
        module.show(result)


def _fail(error: str, code: int) -> int:
    print(f"nas: {shown(error)}", file=sys.stderr)
    return code


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"nas: warning: {shown(str(message))}\n"


def _code(signum: int) -> int:
    """The exit code: 143 for SIGTERM, 130 for the others."""
    return 128 + (signal.SIGTERM if signum == signal.SIGTERM else signal.SIGINT)


def _catch_signals() -> dict[int, Any]:
    """Makes signals end the command with their exit codes. During training, other handlers save the run first."""

    def stop(signum: int, frame: Any) -> None:
        raise Stopped(signum)

    if threading.current_thread() is not threading.main_thread():
        return {}
    return {signum: signal.signal(signum, stop) for signum in STOPPING}
