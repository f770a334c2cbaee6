"""Shows the progress of a training: a bar on a terminal, otherwise plain lines."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column


class Progress(Callback):
    """Shows losses, metrics, tau and entropy of each epoch on the console (None: standard error), with a title such as ``search``."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self._bar = RichProgress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len(self.title))),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scalars]}"),
            console=self.console,
        )
        self._bar.start()
        done, total = pl_module.num_batches_done, pl_module.num_batches_total
        self._task = self._bar.add_task(self.title, total=total, completed=done, scalars="")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=pl_module.num_batches_done)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        scalars = pl_module.scalars()
        if self._bar is not None:
            self._bar.update(self._task, scalars=describe(scalars, brief=True))
        elif trainer.is_global_zero:
            text = describe(scalars)
            line = f"{self.title} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {text}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(scalars: dict[str, float | None], *, brief: bool = False) -> str:
    """The main scalars in one line. `brief` fits beside a bar in 80 columns: no losses, and each metric of one split only."""
    hidden = ("choice/", "entropy/", "kind/", "lr/", "search/alpha", "search/argmax")
    shown: dict[str, float] = {}
    for tag, value in scalars.items():
        if value is not None and not tag.startswith(hidden) and not (brief and tag.endswith("/loss")):
            level, _, name = tag.partition("/")
            shown[name if brief or level == "search" else f"{level} {name}"] = value
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
