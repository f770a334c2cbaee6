"""Where TensorBoard events go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger


def writers(trainer: pl.Trainer) -> Iterator[Any]:
    """The TensorBoard writers of a trainer, on the rank that writes."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                yield logger.experiment
