"""The command line: a thin first stage that answers help and refuses wrong usage without importing torch."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from nas import __version__
from nas.cli.pages import COMMANDS, overview, page
from nas.errors import UsageError, describe

EXIT_FAILED = 1
EXIT_USAGE = 2


class Stopped(BaseException):
    """SIGTERM outside training."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong usage or configuration, 130 SIGINT, 143 SIGTERM.

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
    former = _catch_sigterm()
    warnings_format, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return _run(command, rest)
    except UsageError as error:
        _show_traceback(debug)
        return _fail(error, EXIT_USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except Stopped:
        return _fail("stopped by SIGTERM", 128 + signal.SIGTERM)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")
        return EXIT_FAILED
    except Exception as error:
        _show_traceback(debug)
        signum = getattr(error, "signum", None)
        return _fail(error, EXIT_FAILED if signum is None else 128 + signum)
    finally:
        warnings.formatwarning = warnings_format
        if former is not None:
            signal.signal(signal.SIGTERM, former)


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
    print(f"nas: {text}", file=sys.stderr)
    return code


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"nas: warning: {' '.join(str(message).split())}\n"


def _show_traceback(debug: bool) -> None:
    if debug:
        traceback.print_exc()


def _catch_sigterm() -> Any:
    """SIGTERM before and after training ends the command with 143; during training the run saves first."""

    def stop(signum: int, frame: Any) -> None:
        raise Stopped

    try:
        return signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        return None
