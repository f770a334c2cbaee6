"""Searches in forked processes: they start at once, because their parent has imported everything."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from nas.cli import main
from nas.training.train_module import TrainModule


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: Exit code; the negative signal of a process that was killed.
        seconds: From fork to end.
        peak_mb: Highest resident memory, 1e6 bytes.
        said: Its standard error.
    """

    code: int
    seconds: float
    peak_mb: float
    said: str


class Child:
    """A forked process that runs a function, and reports a number to its parent."""

    def __init__(self, function: Callable[[Child], int], folder: Path, limit_bytes: int | None = None) -> None:
        """Starts it.

        Args:
            function: Its work; returns the exit code.
            folder: Its working directory.
            limit_bytes: Size of the largest file that it may write; None: no limit.
        """
        self._shared = mmap.mmap(-1, 8)
        self._errors = folder / "stderr.txt"
        self._start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = self._run(function, folder, limit_bytes)
            finally:
                os._exit(code)

    @property
    def count(self) -> int:
        """The last number that the process reported."""
        return int(struct.unpack("q", self._shared[:8])[0])

    def report(self, count: int) -> None:
        """Reports a number to the parent; to be called in the process itself."""
        self._shared[:8] = struct.pack("q", count)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Waits until the condition holds; False where the process ended before."""
        while not condition():
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return condition()
            time.sleep(0.002)
        return True

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Sends a signal."""
        os.kill(self.pid, signum)

    def end(self, patience: float = 120.0) -> Ended:
        """Waits for its end; kills it after `patience` seconds."""
        end = time.monotonic() + patience
        if self.wait_for(lambda: time.monotonic() > end):
            self.kill()
        _, status, usage = os.wait4(self.pid, 0)
        said = self._errors.read_text() if self._errors.exists() else ""
        seconds = time.monotonic() - self._start
        return Ended(os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss * 1024 / 1e6, said)

    def _run(self, function: Callable[[Child], int], folder: Path, limit_bytes: int | None) -> int:
        os.chdir(folder)
        for number, name in ((1, os.devnull), (2, str(self._errors))):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
        return function(self)


def command(words: Sequence[str | Path]) -> Callable[[Child], int]:
    """The function that runs ``nas WORDS`` and reports the number of batches done."""

    def run(child: Child) -> int:
        finish = TrainModule.finish_batch

        def counting(self: TrainModule, **watched: object) -> None:
            finish(self, **watched)  # type: ignore[arg-type]
            child.report(self.num_batches_done)

        TrainModule.finish_batch = counting  # type: ignore[method-assign]
        return main([str(word) for word in words])

    return run


def reset_start_method() -> None:
    """Lets commands start processes by the default method; processes of a spawned process are spawned otherwise."""
    multiprocessing.set_start_method(None, force=True)
