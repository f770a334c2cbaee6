"""SIGTERM, SIGINT and SIGUSR1: the batch is finished, a checkpoint is saved, and the run stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from nas.callbacks.checkpoints import Checkpoints, is_last_batch
from nas.io.distributed import any_process

SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


class Interrupted(Exception):
    """A run stopped by a signal after its state was saved."""

    def __init__(self, signum: int, hint: str = "") -> None:
        text = f"stopped by {signal.Signals(signum).name} after saving a checkpoint"
        super().__init__(f"{text}; {hint}" if hint else text)
        self.signum = signum


class Interruption(Checkpoint):
    """Signal handlers only set a flag; at the end of the batch a checkpoint is written and :class:`Interrupted` is raised.

    It is a ``Checkpoint`` callback, so that it runs after metrics are written at an epoch's end. It must follow :class:`Checkpoints`.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._former = {signum: signal.signal(signum, self._note) for signum in SIGNALS}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not is_last_batch(trainer):
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        """Saves and stops in all processes if one has received a signal."""
        if any_process(self.received is not None, trainer.strategy.root_device):
            self.checkpoints.save(trainer)
            raise Interrupted(self.received or signal.SIGTERM)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        while self._former:
            signal.signal(*self._former.popitem())

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum
