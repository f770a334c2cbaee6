"""When checkpoints are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from nas.checkpoint_io import LAST


class Checkpoints(Checkpoint):
    """Writes ``last.ckpt`` before the first batch and after every epoch; ``save`` writes one at any batch."""

    def __init__(self, folder: Path) -> None:
        """Sets the folder."""
        self.path = folder / LAST

    def save(self, trainer: pl.Trainer) -> None:
        """Writes ``last.ckpt`` now."""
        trainer.save_checkpoint(self.path, weights_only=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.num_batches_done == 0:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.save(trainer)
