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
from nas.runs.processes import Averaging, Processes, WorkerDone
from nas.runs.record import RunProvenance
from nas.training.train_module import TrainModule

MAX_THREADS = 256


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """The part of Lightning's Trainer that a configuration sets; the rest belongs to the framework.

    Attributes:
        max_epochs: Epochs, at least 1. An epoch of a search is one pass over the larger split of the training set.
        accelerator: auto, cpu, gpu or another of Lightning's.
        devices: Devices of the accelerator, with a process for each. The batch size is that of one process.
        num_nodes: Number of machines. The command, or torchrun, is started on each.
        precision: fp16 is not offered: its loss scaling and gradient clipping disagree under manual optimization. Use bf16.
        deterministic: Refuse operations that are not deterministic on a GPU. Runs on the CPU are always deterministic.
        limit_train_batches: Largest number of batches in an epoch, or a share of the epoch; null: all.
        num_threads: CPU threads of torch's operations; null: torch's own choice. Sums round differently with another number of threads, so
            runs are equal between machines only where this is set. Small networks are as fast with 1.
        checkpoint_seconds: Smallest time between checkpoints at the ends of epochs; 0: one at every end.
        checkpoint_minutes: Smallest time between checkpoints in the middle of an epoch; null: none there.
        num_images: Moments of a search, at even distances, at which TensorBoard gets pictures and the discretization gap; 0: none.
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
    num_images: int = 20

    def __post_init__(self) -> None:
        """Checks the ranges that Lightning does not check.

        Raises:
            ValueError: A number out of range.
        """
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
    """The end of a training.

    Attributes:
        seconds: Time in training, all resumed parts included.
        device: The device of the training.
    """

    seconds: float
    device: torch.device


def check_batches(options: TrainerOptions, loader: ResumableLoader) -> None:
    """Raises ValueError where a share of an epoch leaves no batch."""
    limit = options.limit_train_batches
    if isinstance(limit, float) and int(len(loader) * limit) < 1:
        raise ValueError(f"trainer: limit_train_batches {limit} leaves none of the {len(loader)} batches of an epoch")


def prepare_machine(options: TrainerOptions) -> torch.device:
    """One device of the options; also sets the number of threads. Raises UsageError where the machine lacks the device."""
    first = options.devices[:1] if isinstance(options.devices, list) else 1
    trainer = _make(replace(options, devices=first, num_nodes=1), enable_checkpointing=False, logger=False)
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    return trainer.strategy.root_device


def processes_of(options: TrainerOptions) -> Processes:
    """This process among those of the options; raises UsageError where the machine lacks devices."""
    trainer = _make(options, enable_checkpointing=False, logger=False)
    return Processes(trainer.global_rank, trainer.world_size)


def train(
    options: TrainerOptions,
    module: TrainModule,
    loader: ResumableLoader,
    folder: RunFolder,
    title: str | None,
    again: str,
    callbacks: Sequence[pl.Callback] = (),
    record: RunProvenance | None = None,
) -> Trained:
    """Trains into `folder`, from its checkpoint where there is one.

    Args:
        options: The trainer options of the configuration.
        module: The module to train.
        loader: Its batches.
        folder: For checkpoints, metrics, system figures and TensorBoard events.
        title: The name of the run in the progress display; None: no display.
        again: The command that resumes after an interruption.
        callbacks: More callbacks; they run after metrics are written and before checkpoints are.
        record: The present conditions of the run, to compare with those of its beginning; None: no comparison.

    Raises:
        Interrupted: A signal came; the state is saved.
        UsageError: The run was begun under other conditions.
        WorkerDone: In every process but the first, when training is done.
        ValueError: No checkpoint is whole.
        FloatingPointError: A loss, gradient or weight is not finite.
        OSError: A file cannot be written.
    """
    checkpoint, purge_step = None, None
    processes = processes_of(options)
    if folder.has_checkpoint():
        checkpoint = folder.last_checkpoint
        state = checkpoint_io.load(checkpoint)
        if not isinstance(state.get("num_batches_done"), int):
            raise ValueError(f"{checkpoint}: not a checkpoint of this run")
        purge_step = state["num_batches_done"] + 1
    folder.wait_for_events()
    checkpoints = Checkpoints(folder.checkpoints, options.checkpoint_seconds, options.checkpoint_minutes)
    system = SystemWriter(folder.system_csv)
    trainer = _make(
        options,
        enable_checkpointing=True,
        callbacks=[
            system,
            MetricsWriter(folder.metrics_csv),
            *callbacks,
            *([] if title is None else [Progress(title)]),
            *([] if record is None else [record]),
            checkpoints,
            Interruption(checkpoints),
        ],
        logger=_Events(folder.path, name="", version="", default_hp_metric=False, purge_step=purge_step),
        **({"strategy": Averaging(), "use_distributed_sampler": False} if processes.size > 1 else {}),
    )
    if record is not None and checkpoint is not None:
        record.compare(state, Path(folder.shown) / checkpoint.relative_to(folder.path), trainer)
    with quiet():
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        except Interrupted as stop:
            raise Interrupted(stop.signum, f"resume with: {again}") from None
        finally:
            if isinstance(loader, ResumableLoader):  # a loader of the user's has no workers of ours
                loader.close()
    leave()
    if processes.rank > 0:
        raise WorkerDone
    return Trained(system.seconds, trainer.strategy.root_device)


def _make(options: TrainerOptions, **ours: Any) -> pl.Trainer:
    lightnings = signature(pl.Trainer).parameters
    with quiet():
        try:
            return pl.Trainer(
                **{name: value for name, value in vars(options).items() if name in lightnings},
                plugins=[VerifiedCheckpointIO()],
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                **ours,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UsageError(f"trainer: {error}") from None


class _Events(TensorBoardLogger):
    """Writes event files alone: the configuration has its own file, and callbacks write the scalars."""

    scalars_are_written = True

    def save(self) -> None:
        self.experiment.flush()


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Lightning's hints on devices and loaders, which do not concern the result."""
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
