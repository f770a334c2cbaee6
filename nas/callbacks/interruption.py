"""Handles SIGTERM, SIGINT and SIGUSR1: finishes the batch, saves a checkpoint, and stops the run."""

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
    """A signal has stopped the run after a checkpoint was saved."""

    def __init__(self, signum: int, hint: str = "") -> None:
        text = f"stopped by {signal.Signals(signum).name} after saving a checkpoint"
        super().__init__(f"{text}; {hint}" if hint else text)
        self.signum = signum


class Interruption(Checkpoint):
    """Sets a flag when a signal arrives; after the batch, writes a checkpoint and raises :class:`Interrupted`.

    The base class is ``Checkpoint``, so that the callback runs after the metrics of an epoch are written. It must follow
    :class:`Checkpoints`.
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
        """Saves and stops in all processes if any process has received a signal."""
        if any_process(self.received is not None, trainer.strategy.root_device):
            self.checkpoints.save(trainer)
            raise Interrupted(self.received or signal.SIGTERM)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        while self._former:
            signal.signal(*self._former.popitem())

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum
