"""TensorBoard writers of a trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from nas.training.train_module import WRITTEN


def writers(trainer: pl.Trainer) -> Iterator[Any]:
    """The TensorBoard writers of a trainer; none on ranks other than 0."""
    if trainer.is_global_zero:
        ours = [logger for logger in trainer.loggers if getattr(logger, WRITTEN, False)]
        for logger in ours or trainer.loggers:  # loggers that a configuration adds get the scalars by self.log_dict
            if isinstance(logger, TensorBoardLogger):
                yield logger.experiment


def write_scalars(trainer: pl.Trainer, row: Mapping[str, float | None], step: int) -> None:
    """Writes the scalars (tag -> value) that are not None, and flushes."""
    for writer in writers(trainer):
        add_scalars(writer, row, step)


def add_scalars(writer: Any, row: Mapping[str, float | None], step: int) -> None:
    """Adds the scalars that are not None to one writer, and flushes."""
    for tag, value in row.items():
        if value is not None:
            writer.add_scalar(tag, value, step)
    writer.flush()
