"""The Lightning Trainer of a run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import TensorBoardLogger

from nas.callbacks import Checkpoints, Interrupted, Interruption, MetricsWriter, Progress, SystemWriter
from nas.data.loader import ResumableLoader
from nas.io import checkpoint_io
from nas.io.checkpoint_io import VerifiedCheckpointIO
from nas.io.distributed import leave
from nas.io.errors import UsageError
from nas.runs.folder import RunFolder
from nas.runs.processes import Averaging, WorkerDone
from nas.runs.record import RunProvenance
from nas.training.train_module import TrainModule

MAX_THREADS = 256


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """The options of Lightning's Trainer that a configuration can set; the framework sets the others.

    Attributes:
        max_epochs: Number of epochs, at least 1. An epoch of a search is one pass over the larger split of the training set.
        accelerator: auto, cpu, gpu or another accelerator of Lightning.
        devices: Devices of the accelerator, with one process for each. The batch size applies to one process.
        num_nodes: Number of machines. Start the command, or torchrun, on each machine.
        precision: Number format. fp16 is not supported, because its loss scaling conflicts with gradient clipping under manual
            optimization; use bf16.
        deterministic: Refuse operations that are not deterministic on a GPU. Runs on the CPU are always deterministic.
        limit_train_batches: Largest number of batches in an epoch, or a share of the epoch; null: all.
        num_threads: CPU threads for torch operations; null: torch's default. The number of threads affects rounding, so set it for equal
            results on different machines. For small networks, 1 thread is as fast.
        checkpoint_seconds: Shortest time between checkpoints at the ends of epochs; 0: a checkpoint after every epoch.
        checkpoint_minutes: Shortest time between checkpoints within an epoch; null: no checkpoint within an epoch.
        max_time: Longest time of the training, as DD:HH:MM:SS; null: no limit. A search that it ends has not annealed tau to its end.
        callbacks: Further callbacks, each a class path with its arguments; they see the metrics of metrics.csv. Alpha has
            no metrics in the warm-up, so that EarlyStopping on them needs ``strict: false``.
        logger: Further loggers, likewise; TensorBoard files are always written.
        num_images: Number of times, evenly spaced, that a search writes pictures and the discretization gap to TensorBoard; 0: never.
    """

    max_epochs: int = 40
    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    num_nodes: int = 1
    precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true"] = "32-true"
    deterministic: bool = False
    limit_train_batches: int | float | None = None
    num_threads: int | None = None
    checkpoint_seconds: float = 1.0
    checkpoint_minutes: float | None = 10.0
    num_images: int = 10
    max_time: str | None = None
    callbacks: list | None = None  # plain values: only a training makes them, see nas.runs.extras
    logger: list | None = None

    def __post_init__(self) -> None:
        """Checks the ranges that Lightning does not check; raises ValueError."""
        for name, holds, expected in (
            ("max_epochs", lambda value: value >= 1, "be at least 1"),
            ("num_nodes", lambda value: value >= 1, "be at least 1"),
            ("num_threads", lambda value: 1 <= value <= MAX_THREADS, f"lie in 1 ... {MAX_THREADS}"),
            ("checkpoint_seconds", lambda value: value >= 0, "be at least 0"),
            ("checkpoint_minutes", lambda value: value > 0, "be above 0"),
            ("num_images", lambda value: value >= 0, "be at least 0"),
            ("limit_train_batches", lambda value: value > 0, "be above 0"),
        ):
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ValueError(f"trainer: {name} must {expected}, got {value}")


class Trained(NamedTuple):
    """The training time, including all resumed parts, and the device."""

    seconds: float
    device: torch.device


def check_batches(options: TrainerOptions, loader: ResumableLoader) -> None:
    """Raises ValueError if ``limit_train_batches`` is a share that leaves no batch."""
    limit = options.limit_train_batches
    if isinstance(limit, float) and int(len(loader) * limit) < 1:
        raise ValueError(f"trainer: limit_train_batches {limit} of {len(loader)} batches is less than one batch")


def make_trainer(options: TrainerOptions) -> pl.Trainer:
    """The Trainer of one stage, without callbacks and logger; sets the number of threads.

    Raises:
        UsageError: An option is wrong, or the machine lacks the devices.
    """
    devices = options.devices
    several = options.num_nodes > 1 or (
        len(devices) > 1 if isinstance(devices, list) else isinstance(devices, int) and devices > 1
    )
    trainer = _make(options, Averaging() if several else "auto")
    if trainer.world_size > 1 and not several:  # found among the devices of the machine
        trainer = _make(options, Averaging())
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    return trainer


def prepare_machine(options: TrainerOptions) -> torch.device:
    """Sets the number of threads; returns the first configured device. Raises UsageError if the machine lacks the device."""
    first = options.devices[:1] if isinstance(options.devices, list) else 1
    return make_trainer(replace(options, devices=first, num_nodes=1)).strategy.root_device


def train(
    trainer: pl.Trainer,
    options: TrainerOptions,
    module: TrainModule,
    loader: ResumableLoader,
    folder: RunFolder,
    title: str | None,
    again: str,
    callbacks: Sequence[pl.Callback] = (),
    record: RunProvenance | None = None,
) -> Trained:
    """Trains a module in a run folder. If the folder has a checkpoint, resumes from it.

    `trainer` comes from :func:`make_trainer` with the same `options`, and trains once. `title` is the title of the progress display (None:
    no display). `again` is the command that resumes after an interruption. The given callbacks run after the metrics and before checkpoints
    are written. `record` holds the conditions of the run now, which are compared with the conditions at its start (None: no comparison).

    Raises:
        Interrupted: A signal arrived; the state is saved.
        UsageError: The run started under other conditions.
        WorkerDone: In every process except the first, after the training.
        ValueError: No checkpoint is intact.
        FloatingPointError: A loss, gradient or weight is not finite.
        OSError: A file cannot be written.
    """
    checkpoint, purge_step = None, None
    if folder.has_checkpoint():
        checkpoint = folder.last_checkpoint
        state = checkpoint_io.load(checkpoint)
        if not isinstance(state.get("num_batches_done"), int):
            raise ValueError(f"{checkpoint}: not a checkpoint of this run")
        purge_step = state["num_batches_done"] + 1
    folder.wait_for_events()
    checkpoints = Checkpoints(folder.checkpoints, options.checkpoint_seconds, options.checkpoint_minutes)
    system = SystemWriter(folder.system_csv)
    trainer.callbacks = [  # type: ignore[attr-defined]  # checkpoints last, as Lightning orders them
        system,
        MetricsWriter(folder.metrics_csv),
        *callbacks,
        *([] if title is None else [Progress(title)]),
        *([] if record is None else [record]),
        Interruption(checkpoints),
        *trainer.callbacks,  # type: ignore[attr-defined]
        checkpoints,
    ]
    events = _Events(folder.path, name="", version="", default_hp_metric=False, purge_step=purge_step)
    module.logs_scalars = bool(options.callbacks or options.logger)
    trainer.loggers = [events, *trainer.loggers]
    if record is not None and checkpoint is not None:
        record.compare(state, Path(folder.shown) / checkpoint.relative_to(folder.path), trainer)
    with quiet():
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        except Interrupted as stop:
            raise Interrupted(stop.signum, f"resume with: {again}") from None
        finally:
            if isinstance(loader, ResumableLoader):  # a loader of the user manages its own workers
                loader.close()
    leave()
    if trainer.global_rank > 0:
        raise WorkerDone
    return Trained(system.seconds, trainer.strategy.root_device)


def _make(options: TrainerOptions, strategy: Any) -> pl.Trainer:
    lightnings = signature(pl.Trainer).parameters.keys()
    with quiet():
        try:
            return pl.Trainer(
                **{
                    name: value for name, value in vars(options).items() if name in lightnings - {"callbacks", "logger"}
                },
                strategy=strategy,
                plugins=[VerifiedCheckpointIO()],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UsageError(f"trainer: {error}") from None


class _Events(TensorBoardLogger):
    """Writes only event files: the configuration has its own file, and callbacks write the scalars."""

    scalars_are_written = True

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Does nothing, for the same reason."""

    def save(self) -> None:
        self.experiment.flush()


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Lightning's hints about devices and loaders, which do not affect the result."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
