"""The command line: a thin first stage that answers help and refuses wrong usage without importing torch."""

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
from nas.cli.pages import COMMANDS, overview, page
from nas.io.errors import UsageError, describe, shown
from nas.io.parent import stop_with_parent

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PIPE = 128 + 13
"""As of a program that SIGPIPE ends."""
STOPPING = (signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
"""Signals that end a command; SIGINT is Python's own."""


class Stopped(BaseException):
    """A signal outside training."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def entry() -> NoReturn:
    """The console script: once the exit code is known, no signal changes it."""
    stop_with_parent()
    code = main()
    for signum in (signal.SIGINT, *STOPPING):
        signal.signal(signum, signal.SIG_IGN)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong usage or configuration, 130 SIGINT and SIGUSR1, 143 SIGTERM.

    Args:
        argv: Words after ``nas``; default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else EXIT_USAGE
    if words[0] == "--version":
        print(f"gumbel-nas {__version__}")
        return 0
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        return _fail(UsageError(f"unknown command {command!r}; there are {', '.join(COMMANDS)}"), EXIT_USAGE)
    if "-h" in rest or "--help" in rest:
        print(page(command))
        return 0
    debug = "--debug" in rest
    rest = [word for word in rest if word != "--debug"]
    former = _catch_signals()
    warnings_format, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return _run(command, rest)
    except UsageError as error:
        _show_traceback(debug)
        return _fail(error, EXIT_USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except Stopped as stop:
        return _fail(stop.args[0], _code(stop.signum))
    except BrokenPipeError:  # whoever read the output has gone
        sys.stdout = open(os.devnull, "w")
        return EXIT_PIPE
    except SystemExit as stop:  # jsonargparse after --print_config: 0; rich where nobody reads: 1
        return EXIT_PIPE if stop.code else 0
    except Exception as error:
        if getattr(error, "exit_code", None) == 0:
            return 0
        _show_traceback(debug)
        signum = getattr(error, "signum", None)
        return _fail(error, EXIT_FAILED if signum is None else _code(signum))
    finally:
        warnings.formatwarning = warnings_format
        for number, handler in former.items():
            signal.signal(number, handler)


def _run(command: str, words: list[str]) -> int:
    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # a line about absent CUDA on every CPU-only machine
    module = import_module(f"nas.cli.{command}_command")
    options, others = module.PARSER.parse(words)
    result: dict[str, Any] = module.run(options, others)
    if options.json:
        print(json.dumps(result))
    else:
        module.show(result)
    return 0


def _fail(error: object, code: int) -> int:
    text = describe(error) if isinstance(error, BaseException) else str(error)
    print(f"nas: {shown(text)}", file=sys.stderr)
    return code


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"nas: warning: {shown(str(message))}\n"


def _show_traceback(debug: bool) -> None:
    if debug:
        traceback.print_exc()


def _code(signum: int) -> int:
    """143 for SIGTERM, 130 for the others."""
    return 128 + (signal.SIGTERM if signum == signal.SIGTERM else signal.SIGINT)


def _catch_signals() -> dict[int, Any]:
    """Signals before and after training end the command with its code; during training the run saves first."""

    def stop(signum: int, frame: Any) -> None:
        raise Stopped(signum)

    if threading.current_thread() is not threading.main_thread():
        return {}
    return {signum: signal.signal(signum, stop) for signum in STOPPING}
