"""Shows the progress of scoring architectures after a training."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS = 10.0
"""Time between lines if there is no terminal."""


class ScoringProgress:
    """Shows the number of scored architectures and the remaining time on the console (None: standard error)."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(stderr=True)
        self._since = self._last = time.monotonic()
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """Shows that `done` of `total` architectures are scored."""
        now = time.monotonic()
        if self.console.is_terminal:
            if self._bar is None:
                columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
                self._bar = Progress(*columns, console=self.console, transient=True)
                self._bar.start()
                self._bar.add_task(self.title)
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        elif now - self._last >= SECONDS:
            self._last = now
            left = (now - self._since) / max(1, done) * (total - done)
            text = f"{self.title} {done}/{total} architectures, about {left:.0f} s left"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
