"""The Lightning Trainer of a run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
        max_epochs: Epochs, at least 1. An epoch of a search is one pass over the larger half of the training set.
        accelerator: auto, cpu, gpu or another of Lightning's.
        devices: Which devices of the accelerator; a process for each. Batches are of each process.
        num_nodes: Machines, on each of which the command is started, or torchrun.
        precision: fp16 is not offered: its loss scaling and gradient clipping disagree under manual optimization. Use bf16.
        deterministic: Refuse operations that are not deterministic on a GPU; on the CPU runs are deterministic anyway.
        limit_train_batches: Batches an epoch at most (a number), or a share of the epoch; null: all.
        num_threads: CPU threads of torch's operations; null: torch's own choice. Sums of another number of threads round differently, so
            runs are equal between machines only where it is set. Small networks are as fast with 1.
        checkpoint_seconds: At the end of an epoch a checkpoint is written if so much time has passed since the last; 0: at every one.
        checkpoint_minutes: In the middle of an epoch one is written if so many minutes have passed since the last; null: never.
        num_images: Moments of a search, at even distances, at which TensorBoard gets pictures and the discretisation gap; 0: none.
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
        """Checks what Lightning would let pass.

        Raises:
            ValueError: A number out of range.
        """
        if self.max_epochs < 1:
            raise ValueError(f"trainer: max_epochs must be at least 1, got {self.max_epochs}")
        if self.num_nodes < 1:
            raise ValueError(f"trainer: num_nodes must be at least 1, got {self.num_nodes}")
        if self.num_threads is not None and not 1 <= self.num_threads <= MAX_THREADS:
            raise ValueError(f"trainer: num_threads must lie in 1 ... {MAX_THREADS}, got {self.num_threads}")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"trainer: checkpoint_seconds must be at least 0, got {self.checkpoint_seconds}")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes > 0:
            raise ValueError(f"trainer: checkpoint_minutes must be above 0, got {self.checkpoint_minutes}")
        if self.num_images < 0:
            raise ValueError(f"trainer: num_images must be at least 0, got {self.num_images}")
        if self.limit_train_batches is not None and not self.limit_train_batches > 0:
            raise ValueError(f"trainer: limit_train_batches must be above 0, got {self.limit_train_batches}")


class Trained(NamedTuple):
    """How a training went.

    Attributes:
        seconds: Time in training, over all resumptions.
        device: Where it ran.
    """

    seconds: float
    device: torch.device


def check_batches(options: TrainerOptions, loader: ResumableLoader) -> None:
    """Refuses a share of an epoch that leaves no batch.

    Raises:
        ValueError: It leaves none.
    """
    limit = options.limit_train_batches
    if isinstance(limit, float) and int(len(loader) * limit) < 1:
        raise ValueError(f"trainer: limit_train_batches {limit} leaves none of the {len(loader)} batches of an epoch")


def prepare_machine(options: TrainerOptions) -> torch.device:
    """One device of those that the options mean; also sets the number of threads.

    Raises:
        UsageError: The machine does not have it.
    """
    first = options.devices[:1] if isinstance(options.devices, list) else 1
    trainer = _make(replace(options, devices=first, num_nodes=1), enable_checkpointing=False, logger=False)
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    return trainer.strategy.root_device


def processes_of(options: TrainerOptions) -> Processes:
    """This process among those that the options mean.

    Raises:
        UsageError: The machine does not have so many devices.
    """
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
    """Trains into `folder`, from its checkpoint on where there is one.

    Args:
        options: What the configuration says.
        module: What is trained.
        loader: Its batches.
        folder: Gets checkpoints, metrics, system figures and TensorBoard events.
        title: What the progress display calls the run; None: no display.
        again: The command that goes on after an interruption.
        callbacks: Further ones; they run when metrics are written and before checkpoints are.
        record: What the run has now, to be compared with what it was begun with; None: nothing is compared.

    Raises:
        Interrupted: A signal came; the state is saved.
        UsageError: The run was begun otherwise.
        WorkerDone: In every process but the first, when training is done.
        ValueError: There are checkpoints, but none is whole.
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
            raise Interrupted(stop.signum, f"go on with: {again}") from None
        finally:
            if isinstance(loader, ResumableLoader):  # one of one's own has nothing to end
                loader.close()
    leave()
    if processes.rank > 0:
        raise WorkerDone
    return Trained(system.seconds, trainer.strategy.root_device)


_OURS = ("num_threads", "checkpoint_seconds", "checkpoint_minutes", "num_images")
"""Options that are not Lightning's."""


def _make(options: TrainerOptions, **ours: Any) -> pl.Trainer:
    with quiet():
        try:
            return pl.Trainer(
                **{name: value for name, value in vars(options).items() if name not in _OURS},
                plugins=[VerifiedCheckpointIO()],
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                **ours,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise UsageError(f"trainer: {error}") from None


class _Events(TensorBoardLogger):
    """Event files alone: the configuration has a file of its own already, and callbacks write the scalars."""

    scalars_are_written = True

    def save(self) -> None:
        self.experiment.flush()


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its hints: what it says of devices and loaders is not about this run's result."""
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
