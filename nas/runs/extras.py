"""Callbacks and loggers that a configuration adds to a training; commands that only read a run do not make them."""

from __future__ import annotations

import pytorch_lightning as pl
from jsonargparse import ArgumentParser
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from nas.runs.class_paths import check_named, reading_files
from nas.runs.config import Experiment


def add_extras(trainer: pl.Trainer, experiment: Experiment) -> pl.Trainer:
    """Makes ``trainer.callbacks`` and ``trainer.logger`` of a configuration, and gives them to its Trainer.

    Raises:
        UsageError: A class is not a callback or a logger, is not allowed, or its arguments do not fit.
    """
    parser = ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.add_argument("--callbacks", type=list[Callback], default=[])
    parser.add_argument("--logger", type=list[Logger], default=[])
    options = experiment.trainer
    with reading_files(f"{experiment.source.shown}: trainer", experiment.trusted):
        parsed = parser.parse_object({"callbacks": options.callbacks or [], "logger": options.logger or []})
        check_named(parsed, experiment.trusted)
        made = parser.instantiate(parsed)
    trainer.callbacks = [*trainer.callbacks, *made.callbacks]  # type: ignore[attr-defined]
    trainer.loggers = made.logger
    return trainer
