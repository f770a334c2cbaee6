"""Writes the deterministic scalars of every epoch to metrics.csv and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from nas.callbacks.writers import write_scalars
from nas.io.csv_file import CsvFile


class MetricsWriter(Callback):
    """Writes ``module.scalars()`` after every epoch; the step is the batch counter."""

    def __init__(self, path: Path) -> None:
        self.file = CsvFile(path)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.file.cut_after(pl_module.num_batches_done)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        step = pl_module.num_batches_done
        row = pl_module.scalars()
        if not trainer.is_global_zero:
            return
        self.file.append(step, {"epoch": trainer.current_epoch, **row})
        write_scalars(trainer, row, step)
