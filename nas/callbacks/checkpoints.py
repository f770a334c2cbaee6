"""Decides when checkpoints are written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from nas.io.checkpoint_io import LAST
from nas.io.distributed import any_process


class Checkpoints(Checkpoint):
    """Writes ``last.ckpt`` before the first batch, after epochs, and within long epochs.

    Args:
        folder: The folder of checkpoints.
        seconds: Shortest time between checkpoints after epochs. A checkpoint always follows the last epoch.
        minutes: Shortest time between checkpoints within an epoch; None: no checkpoints within an epoch.
    """

    def __init__(self, folder: Path, seconds: float = 0.0, minutes: float | None = None) -> None:
        self.path = folder / LAST
        self.seconds = seconds
        self.minutes = minutes
        self._written = time.monotonic()

    def save(self, trainer: pl.Trainer) -> None:
        """Writes ``last.ckpt`` now; raises FloatingPointError and keeps the earlier checkpoint if a weight is not finite."""
        cast(Any, trainer.lightning_module).check_weights()
        trainer.save_checkpoint(self.path, weights_only=False)
        self._written = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.num_batches_done == 0:
            self.save(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.minutes is not None and not is_last_batch(trainer) and self._is_due(trainer, 60 * self.minutes):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if self._is_due(trainer, self.seconds) or is_last:
            self.save(trainer)

    def _is_due(self, trainer: pl.Trainer, seconds: float) -> bool:
        """Whether `seconds` have passed since the last checkpoint in at least one process."""
        return any_process(time.monotonic() - self._written >= seconds, trainer.strategy.root_device)


def is_last_batch(trainer: pl.Trainer) -> bool:
    """Whether the epoch ends with this batch."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
