"""The common base of searching and retraining: counters, seeds, metrics, optimizer steps and checks of every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from nas.costs.functions import batch_size
from nas.data.loader import ResumableLoader
from nas.evaluation import joined, split_batch
from nas.io.distributed import average, average_gradients, check_equal, gathered, num_processes
from nas.io.moved import metrics_of, rename_metrics
from nas.io.rng import derive_seed, seed_global_generators
from nas.tasks import Task
from nas.training.finite import BatchCheck, weights_not_finite
from nas.training.lr_schedules import LRSchedule
from nas.training.metrics import SplitMetrics
from nas.training.schedules import RUN, Plan, Schedules

WRITTEN = "scalars_are_written"
"""Name of an attribute of loggers whose scalars a callback writes."""


class TrainModule(pl.LightningModule):
    """A Lightning module with manual optimization that resumes exactly at any batch.

    Subclasses document the arguments.

    Attributes:
        num_batches_done: Number of batches done: the step of every scalar, image and checkpoint. (Lightning's ``global_step`` counts
            optimizer steps; a search takes two for each batch.)
        metric_names: Metric -> names of its scalars, for metrics with several scalars. The names of an epoch's scalars must be known
            before its first batch.
        schedules: Learning rates and progress; None before training starts.
        logs_scalars: Whether ``self.log_dict`` gets the scalars also where a callback writes them, for callbacks and loggers of the user.
    """

    def __init__(
        self,
        task: Task,
        *,
        seed: int,
        gradient_clip_norm: float | None,
        max_skipped_batches: int = 0,
        num_micro_batches: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if gradient_clip_norm is not None and not gradient_clip_norm > 0:
            raise ValueError(f"gradient_clip_norm must be above 0, got {gradient_clip_norm}")
        if max_skipped_batches < 0:
            raise ValueError(f"max_skipped_batches must be at least 0, got {max_skipped_batches}")
        if num_micro_batches < 1:
            raise ValueError(f"num_micro_batches must be at least 1, got {num_micro_batches}")
        self.task = task
        self.seed = seed
        self.gradient_clip_norm = gradient_clip_norm
        self.max_skipped_batches = max_skipped_batches
        self.num_micro_batches = num_micro_batches
        self.num_batches_done = 0
        self.num_skipped_batches = 0
        self.metrics = SplitMetrics()
        self.metric_names: dict[str, list[str]] = {}
        self.schedules: Schedules | None = None
        self.logs_scalars = False
        self._loaded: dict[str, Any] = {}  # from a checkpoint, until training starts
        self._check = BatchCheck(self, may_skip=False)
        self._followers: list[nn.Module] = []
        self.register_load_state_dict_pre_hook(rename_metrics)

    @property
    def num_batches_total(self) -> int:
        """Batches of the whole run."""
        return cast(int, self.trainer.max_epochs) * self.num_batches_per_epoch

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches of one epoch.

        Raises:
            ValueError: The loader has no length.
        """
        trainer = self.trainer
        if trainer.num_training_batches == float("inf"):
            trainer.estimated_stepping_batches  # noqa: B018  (makes Lightning set up the loader)
        if trainer.num_training_batches == float("inf"):
            raise ValueError("the training loader has no length, so tau and learning rates cannot be scheduled")
        return int(trainer.num_training_batches)

    @property
    def progress(self) -> float:
        """Completed share of the run, in [0, 1]; a run that resumes with another number of epochs continues from its share."""
        plan = self.schedules.plans[RUN] if self.schedules else Plan(self.num_batches_total)
        return plan(self.num_batches_done)

    def update_metrics(self, split: str, loss: Tensor, prediction: Any, target: Tensor) -> None:
        """Adds one batch to the metrics of `split`, and its loss to the check of the batch."""
        self._check.watch(f"{split} loss", loss)
        if self.max_skipped_batches and not bool(torch.isfinite(loss.detach()).all()):
            return  # the batch will be skipped
        self.metrics.see(split, loss, prediction, target)

    def scalars(self) -> dict[str, float | None]:
        """Deterministic scalars of the epoch so far: tag -> value, None if nothing was measured. The tags are always the same."""
        result = self.metrics.scalars(self.metric_names)
        for name, optimizer in (self.schedules.optimizers if self.schedules else {}).items():
            result[f"lr/{name}"] = float(optimizer.param_groups[0]["lr"])
        if self.max_skipped_batches:
            result["skipped_batches"] = float(self.num_skipped_batches)
        return result

    def set_up_optimizers(
        self, optimizers: Mapping[str, Optimizer], schedules: Mapping[str, tuple[LRSchedule, int]]
    ) -> tuple[list[Optimizer], list[Any]]:
        """The result of ``configure_optimizers``. `schedules` maps the name of an optimizer to its schedule and number of steps."""
        self.schedules = Schedules(optimizers, schedules, self.num_batches_total)
        return list(optimizers.values()), list(self.schedules.lr_schedulers.values())

    def weighted_losses(
        self,
        split: str,
        batch: Any,
        num_parts: int,
        forward: Callable[[int, Any, Tensor], tuple[Tensor, Any]],
        *,
        measured: bool = True,
    ) -> Iterator[Tensor]:
        """The losses of the parts of a batch, weighted by size. If `measured`, updates the metrics of `split` after the last part.

        `forward` takes the number, inputs and target of a part; it returns the loss and the network's output.
        """
        inputs, target = batch
        losses, predictions = [], []
        for number, (part, part_target) in enumerate(split_batch(inputs, target, num_parts)):
            loss, output = forward(number, part, part_target)
            if num_parts > 1:
                loss = loss * (batch_size(part_target) / batch_size(target))
            losses.append(loss.detach())
            predictions.append(tree_map_only(Tensor, Tensor.detach, self.task.prediction(output)))
            yield loss
        if measured:
            self.update_metrics(split, total(losses), joined(predictions), self.task.truth(target))

    def descend_along(self, loss: Tensor | Iterable[Tensor], names: Iterable[str]) -> None:
        """Takes one step of the named optimizers on a loss, or on a sum of losses that are computed one after another.

        Computes no gradients of other parameters. A skipped batch changes no parameter.
        """
        assert self.schedules is not None
        wrapped = self.optimizers()
        lightning = wrapped if isinstance(wrapped, list) else [wrapped]
        steps = {name: lightning[i] for i, name in enumerate(self.schedules.optimizers) if name in names}
        parameters = [p for opt in steps.values() for group in opt.param_groups for p in group["params"]]
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        for optimizer in steps.values():
            optimizer.zero_grad()
        for term in [loss] if isinstance(loss, Tensor) else loss:
            if parameters:
                self.manual_backward(term, inputs=parameters)
        if parameters:
            average_gradients(parameters)
            self._check.watch_gradient(get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if self.max_skipped_batches and (bad := self._check.skipped or self._check.first_bad()):
            self._check.skipped = bad
            for optimizer in steps.values():
                optimizer.zero_grad()  # a step without gradients changes nothing, but its schedule advances
        for name, optimizer in steps.items():
            if name == "weight" and self.gradient_clip_norm is not None:
                self.clip_gradients(
                    cast(Optimizer, optimizer),
                    gradient_clip_val=self.gradient_clip_norm,
                    gradient_clip_algorithm="norm",
                )
            optimizer.step()
            self.schedules.advance(name)

    def finish_batch(self, **watched: Tensor) -> None:
        """Counts the batch, and checks its losses, gradients and the tensors in `watched`.

        Raises:
            FloatingPointError: A tensor is not finite, and the batch may not be skipped.
        """
        if self._check.skipped:
            self.num_skipped_batches += 1
            self._check.undo()
            if self.num_skipped_batches > self.max_skipped_batches:
                raise self._error(self._check.skipped, f" after {self.max_skipped_batches} skipped batches")
        for name, tensor in watched.items():
            self._check.watch(name, tensor)
        if bad := self._check.first_bad():
            raise self._error(bad)
        if num_processes() > 1:  # processes have different batches
            average([buffer for buffer in self.buffers() if buffer.is_floating_point()])
        self.num_batches_done += 1

    def _error(self, name: str, ending: str = "") -> FloatingPointError:
        return FloatingPointError(
            f"{name} is not finite at batch {self.num_batches_done}{ending}; the last checkpoint is kept"
        )

    def check_weights(self) -> None:
        """Raises FloatingPointError for a weight or batch-norm statistic that is not finite, before a checkpoint is written."""
        if bad := weights_not_finite(self):
            raise self._error(bad)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Checks targets while they are on the CPU."""
        for _, target in self.batches_of(batch):
            self.task.check_target(target)
        return batch

    def batches_of(self, batch: Any) -> list[Any]:
        """The (inputs, target) pairs in an item of the loader."""
        return [batch]

    def on_fit_start(self) -> None:
        """Puts the network into train mode: Lightning leaves modes as they are, and a network may come in eval mode."""
        self.train()

    def on_train_start(self) -> None:
        """Restores metrics, schedules and the position in the data. Lightning restores a loader only within an epoch.

        Modules with a ``set_progress`` method, such as a scheduled drop path, get the completed share of the run before each batch.
        """
        self._followers = [module for module in self.modules() if callable(getattr(module, "set_progress", None))]
        if self._loaded:
            self.metrics.load_state_dict(self._loaded["metrics"][self.global_rank])
            assert self.schedules is not None
            self.schedules.resume(self._loaded["plans"], self.num_batches_done)
            self._loaded = {}
        loader = self.trainer.train_dataloader
        if isinstance(loader, ResumableLoader):
            epoch, first = divmod(self.num_batches_done, self.num_batches_per_epoch)  # an epoch may be cut short
            loader.load_state_dict({"num_done": epoch * len(loader) + first})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds the global generators (dropout) by (seed, batch, rank)."""
        seed_global_generators(derive_seed(self.seed, "batch", self.num_batches_done, self.global_rank))
        self._check = BatchCheck(self, may_skip=self.max_skipped_batches > 0)
        for module in self._followers:
            cast(Any, module).set_progress(self.progress)

    def on_train_epoch_end(self) -> None:
        """Resets the metrics after callbacks have read them. If no callback writes scalars, logs them with ``self.log_dict``."""
        if self.logs_scalars or not any(getattr(logger, WRITTEN, False) for logger in self.trainer.loggers):
            self.log_dict({tag: value for tag, value in self.scalars().items() if value is not None})
        self.metrics.reset()
        check_equal(dict([*self.named_parameters(), *self.named_buffers()]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the counters, the schedules, and the metrics of all processes."""
        checkpoint["num_batches_done"] = self.num_batches_done
        checkpoint["num_skipped_batches"] = self.num_skipped_batches
        checkpoint["plans"] = self.schedules.state() if self.schedules else {}
        checkpoint["metrics"] = gathered(self.metrics.state_dict())  # each process has its own

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the counters; metrics and schedules follow when training starts."""
        self.num_batches_done = checkpoint["num_batches_done"]
        self.num_skipped_batches = checkpoint["num_skipped_batches"]
        self._loaded = {"metrics": metrics_of(checkpoint), "plans": checkpoint.get("plans", {})}


def total(losses: Sequence[Tensor]) -> Tensor:
    """The sum of losses."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum()
