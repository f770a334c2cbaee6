"""When checkpoints are written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from nas.checkpoint_io import LAST


class Checkpoints(Checkpoint):
    """Writes ``last.ckpt`` before the first batch and after epochs; ``save`` writes one at any batch."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        """Sets where and when.

        Args:
            folder: The folder.
            seconds: At the end of an epoch one is written if so much time has passed since the last; the last epoch's always is.
        """
        self.path = folder / LAST
        self.seconds = seconds
        self._written = time.monotonic()

    def save(self, trainer: pl.Trainer) -> None:
        """Writes ``last.ckpt`` now."""
        trainer.save_checkpoint(self.path, weights_only=False)
        self._written = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.num_batches_done == 0:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if is_last or time.monotonic() - self._written >= self.seconds:
            self.save(trainer)
