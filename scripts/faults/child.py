"""Searches in processes forked from this one, which has imported everything, so that each starts at once."""

from __future__ import annotations

import mmap
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
        code: Exit code; of one that was killed the negative signal.
        seconds: From fork to end.
        peak_mb: Highest resident memory, 1e6 bytes.
        said: What it wrote to standard error.
    """

    code: int
    seconds: float
    peak_mb: float
    said: str


class Child:
    """A forked process that runs a function; it counts finished batches where its parent can see them."""

    def __init__(self, function: Callable[[Child], int], folder: Path, limit_bytes: int | None = None) -> None:
        """Starts it.

        Args:
            function: What it does; returns the exit code.
            folder: Its working directory.
            limit_bytes: Largest file that it may write; None: any.
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
        """What :meth:`tell` was told last."""
        return int(struct.unpack("q", self._shared[:8])[0])

    def tell(self, count: int) -> None:
        """Tells the parent a number; call it in the process itself."""
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
        """Waits for it; kills it where that takes longer than `patience` seconds."""
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
    """The function that runs ``nas WORDS``, and tells the number of batches done."""

    def run(child: Child) -> int:
        finish = TrainModule.finish_batch

        def counting(self: TrainModule, **watched: object) -> None:
            finish(self, **watched)  # type: ignore[arg-type]
            child.tell(self.num_batches_done)

        TrainModule.finish_batch = counting  # type: ignore[method-assign]
        return main([str(word) for word in words])

    return run
