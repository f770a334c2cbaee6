"""What searching and retraining share: counting, seeding, meters, optimizer steps and checks of every batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_map_only
from torchmetrics import MeanMetric, Metric

from nas.costs.functions import batch_size
from nas.data.loader import ResumableLoader
from nas.evaluation import joined, scalars_of, split_batch, update_metrics
from nas.io.distributed import average, average_gradients, check_equal, gathered
from nas.io.rng import derive_seed, seed_global_generators
from nas.lr_schedules import LRSchedule, make_lr_scheduler, rate_share
from nas.tasks import Task
from nas.training.replanning import Plan

_GRADIENT = "gradient"
WRITTEN = "scalars_are_written"
"""Attribute of a logger whose scalars a callback writes."""
RUN = "run"
"""The plan of the whole run, beside those of the learning rates."""
_SUFFIX = "_meters"  # a module cannot be called "train"

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def check_optimizer(name: str, factory: OptimizerFactory) -> Optimizer:
    """Takes a step with a matrix and a vector, as a search will.

    Args:
        name: What messages call it.
        factory: Makes it.

    Raises:
        ValueError: It cannot be made or stepped; sparse and closure optimizers for example.
    """
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    try:
        optimizer = factory(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    return optimizer


class TrainModule(pl.LightningModule):
    """A Lightning module with manual optimization that resumes exactly at any batch.

    Args:
        task: What is minimised and measured.
        seed: Seed of the noise, data order and dropout.
        gradient_clip_norm: Largest norm of the weights' gradient; None: as it comes.
        max_skipped_batches: So many batches whose loss or gradient is not finite are left out; the next one stops the run.
        num_micro_batches: Parts of each batch that run one after the other.

    Attributes:
        num_batches_done: The batch counter: every scalar, image and checkpoint is dated by it. (Lightning's ``global_step`` counts
            optimizer steps, of which a search takes two a batch.)
        metric_names: Metric -> names of its scalars, of those that are several: what an epoch logs must be known before it has any.
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
        self.max_skipped_batches = max_skipped_batches
        self.num_micro_batches = num_micro_batches
        self.num_skipped_batches = 0
        self.task = task
        self.seed = seed
        self.gradient_clip_norm = gradient_clip_norm
        self.num_batches_done = 0
        self.meters = nn.ModuleDict()
        self.metric_names: dict[str, list[str]] = {}
        self._optimizers_by_name: dict[str, Any] = {}
        self._schedulers_by_name: dict[str, LRScheduler] = {}
        self._schedules: dict[str, LRSchedule] = {}
        self._plans: dict[str, Plan] = {}
        self._loaded_plans: dict[str, Plan] = {}
        self._scheduled: list[nn.Module] = []
        self._loaded_meters: list[dict[str, Any]] = []
        self._watched: dict[str, Tensor] = {}
        self._buffers_before: list[Tensor] = []
        self._skipped: str | None = None  # what the batch is left out for

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
        """Completed share of the run, in [0, 1]; of one that goes on with more or fewer epochs, continued from where it was."""
        plan = self._plans.get(RUN) or Plan(self.num_batches_total)
        return plan(self.num_batches_done)

    def add_meters(self, level: str) -> None:
        """Registers loss and metric meters; their state is checkpointed, so an epoch cut in two averages the same."""
        meters: dict[str, Metric] = {"loss": MeanMetric(nan_strategy="disable"), **self.task.metrics()}
        for meter in meters.values():
            meter.persistent(True)
        self.meters[level + _SUFFIX] = nn.ModuleDict(meters)

    def update_meters(self, level: str, loss: Tensor, prediction: Any, target: Tensor) -> None:
        """Adds one batch to the meters of `level`, and watches its loss."""
        self._watched[f"{level} loss"] = loss.detach()
        if self.max_skipped_batches and not bool(torch.isfinite(loss.detach()).all()):
            return  # it will be skipped
        update_metrics(cast(Mapping[str, Metric], self.meters[level + _SUFFIX]), loss, prediction, target)

    def scalars(self) -> dict[str, float | None]:
        """Deterministic scalars of the epoch so far: tag -> value, None where nothing was measured; always the same tags."""
        result: dict[str, float | None] = {}
        for key, meters in self.meters.items():
            level = key.removesuffix(_SUFFIX)
            for name, meter in cast(nn.ModuleDict, meters).items():
                metric = cast(Metric, meter)
                names = [f"{level}/{part}" for part in self.metric_names.get(name, [name])]
                if metric.update_called:
                    result |= scalars_of(f"{level}/{name}", metric.compute())
                else:
                    result |= dict.fromkeys(names)
        for name, optimizer in self._optimizers_by_name.items():
            result[f"lr/{name}"] = float(optimizer.param_groups[0]["lr"])
        if self.max_skipped_batches:
            result["skipped_batches"] = float(self.num_skipped_batches)
        return result

    def set_up_optimizers(
        self, optimizers: Mapping[str, Optimizer], schedules: Mapping[str, tuple[LRSchedule, int]]
    ) -> tuple[list[Optimizer], list[Any]]:
        """What ``configure_optimizers`` returns: one optimizer and one schedule a parameter set.

        Args:
            optimizers: By name.
            schedules: Name -> schedule, and its number of steps.
        """
        self._optimizers_by_name = dict(optimizers)
        self._schedules = {name: schedule for name, (schedule, _) in schedules.items()}
        self._plans = {name: Plan(num_steps) for name, (_, num_steps) in schedules.items()}
        self._plans[RUN] = Plan(self.num_batches_total)
        self._schedulers_by_name = {
            name: make_lr_scheduler(schedule, optimizers[name], num_steps)
            for name, (schedule, num_steps) in schedules.items()
        }
        return list(optimizers.values()), list(self._schedulers_by_name.values())

    def _replan(self) -> None:
        """Stretches what is left of the schedules where the run was begun with another number of steps."""
        for name, begun in self._loaded_plans.items():
            if name in self._plans:
                step = self.num_batches_done if name == RUN else self._schedulers_by_name[name].last_epoch
                self._plans[name] = begun.changed(self._plans[name].total, step)
        self._loaded_plans = {}
        plan = self._plans.get(RUN)
        if plan is not None and plan.done == self.num_batches_done > 0 and plan.share >= 1.0:
            warnings.warn(
                "the schedules were at their end: learning rates and tau stay at their last values", stacklevel=2
            )

    def _advance(self, name: str) -> None:
        """The next learning rate of an optimizer."""
        scheduler, plan = self._schedulers_by_name[name], self._plans[name]
        if plan.done == 0:
            scheduler.step()
            return
        scheduler.last_epoch += 1
        for group in self._optimizers_by_name[name].param_groups:
            highest = group.get("max_lr", group.get("initial_lr", group["lr"]))
            group["lr"] = highest * rate_share(self._schedules[name], plan(scheduler.last_epoch))

    def losses_of_micro_batches(
        self, level: str, batch: Any, num_parts: int, forward: Callable[[int, Any, Tensor], tuple[Tensor, Any]]
    ) -> Iterator[Tensor]:
        """The losses of a batch's parts, weighted by their sizes; the meters of `level` see the batch when all are descended.

        Args:
            level: Name of the meters.
            batch: (inputs, target).
            num_parts: How many.
            forward: Takes a part's number, inputs and target; returns its loss and prediction.
        """
        inputs, target = batch
        total, predictions = torch.zeros((), device=self.device), []
        for number, (part, part_target) in enumerate(split_batch(inputs, target, num_parts)):
            loss, prediction = forward(number, part, part_target)
            loss = loss * (batch_size(part_target) / batch_size(target))
            total = total + loss.detach()
            predictions.append(tree_map_only(Tensor, Tensor.detach, prediction))
            yield loss
        self.update_meters(level, total, joined(predictions), target)

    def descend_along(self, loss: Tensor | Iterable[Tensor], names: Iterable[str]) -> None:
        """One step of the named optimizers along the gradient of a loss, or of a sum whose terms are descended one after the other.

        No gradient is computed for other parameters; no step is taken where the batch is to be skipped.
        """
        wrapped = self.optimizers()
        lightning = wrapped if isinstance(wrapped, list) else [wrapped]
        steps = {name: lightning[i] for i, name in enumerate(self._optimizers_by_name) if name in names}
        parameters = [p for opt in steps.values() for group in opt.param_groups for p in group["params"]]
        parameters = [parameter for parameter in parameters if parameter.requires_grad]  # others are frozen
        for optimizer in steps.values():
            optimizer.zero_grad()
        for term in [loss] if isinstance(loss, Tensor) else loss:
            if parameters:
                self.manual_backward(term, inputs=parameters)
        if parameters:
            average_gradients(parameters)
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self._watched[_GRADIENT] = get_total_norm(gradients) + self._watched.get(_GRADIENT, 0.0)
        if self.max_skipped_batches and (bad := self._skipped or self._not_finite()):
            self._skipped = bad
            for optimizer in steps.values():
                optimizer.zero_grad()  # a step without gradients changes nothing, but its schedule goes on
        for name, optimizer in steps.items():
            if name == "weight" and self.gradient_clip_norm is not None:
                self.clip_gradients(
                    cast(Optimizer, optimizer),
                    gradient_clip_val=self.gradient_clip_norm,
                    gradient_clip_algorithm="norm",
                )
            optimizer.step()
            self._advance(name)

    def finish_batch(self, **watched: Tensor) -> None:
        """Counts the batch, and stops the run at the first that produced NaN or infinity: one fused check of losses and gradients.

        Args:
            **watched: Further tensors to look at.

        Raises:
            FloatingPointError: Naming the batch and the tensor.
        """
        if self._skipped:
            self.num_skipped_batches += 1
            for buffer, before in zip(self.buffers(), self._buffers_before, strict=True):
                buffer.copy_(before)  # batch-norm statistics
            if self.num_skipped_batches > self.max_skipped_batches:
                raise self._error(self._skipped, f" after {self.max_skipped_batches} skipped ones")
            self._watched = {}
        self._watched |= {name: tensor.detach() for name, tensor in watched.items()}
        if bad := self._not_finite():
            raise self._error(bad)
        average([buffer for buffer in self.buffers() if buffer.is_floating_point()])  # processes see other batches
        self.num_batches_done += 1

    def _error(self, name: str, ending: str = "") -> FloatingPointError:
        return FloatingPointError(
            f"{name} is not finite at batch {self.num_batches_done}{ending}; the last checkpoint is kept"
        )

    def _not_finite(self) -> str | None:
        """The first of the watched tensors that is not finite; of a gradient, the name of its parameter."""
        if not self._watched:
            return None
        sums = torch.stack([value.double().sum() for value in self._watched.values()])
        if bool(torch.isfinite(sums).all()):
            return None
        bad = [name for name, total in zip(self._watched, sums.tolist(), strict=True) if total - total != 0]
        others = [name for name in bad if name != _GRADIENT]
        if others:
            return others[0]
        named = ((name, p.grad) for name, p in self.named_parameters() if p.grad is not None)
        # none where only the norm's square was too large
        return next((f"gradient of {name}" for name, grad in named if not bool(torch.isfinite(grad).all())), None)

    def check_weights(self) -> None:
        """Refuses weights, and statistics of batch norms, that no checkpoint should hold.

        Raises:
            FloatingPointError: Naming one that is not finite.
        """
        norms = [(name, module) for name, module in self.named_modules() if isinstance(module, _NormBase)]
        statistics = [(f"{name}.{key}", value) for name, norm in norms for key, value in norm.named_buffers()]
        named = [*self.named_parameters(), *statistics]
        sums = [parameter.detach().sum(dtype=torch.float64) for _, parameter in named]
        finite = torch.isfinite(torch.stack(sums)) if sums else torch.ones(0)
        if not bool(finite.all()):
            raise self._error(named[int((~finite.bool()).nonzero()[0])][0])

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Checks targets while they are on the CPU."""
        for _, target in self.batches_of(batch):
            self.task.check_target(target)
        return batch

    def batches_of(self, batch: Any) -> list[Any]:
        """The (inputs, target) pairs of what the loader yields."""
        return [batch]

    def on_train_start(self) -> None:
        """Puts the loader where the batch counter is. Lightning itself restores a loader only in the middle of an epoch.

        Modules of the network that have a ``set_progress`` (a scheduled drop path) hear the completed share of the run before each batch.
        """
        self._scheduled = [module for module in self.modules() if callable(getattr(module, "set_progress", None))]
        if self._loaded_meters:
            self.meters.load_state_dict(self._loaded_meters[self.global_rank])
            self._loaded_meters = []
        self._replan()
        loader = self.trainer.train_dataloader
        if isinstance(loader, ResumableLoader):
            epoch, first = divmod(self.num_batches_done, self.num_batches_per_epoch)  # an epoch may be cut short
            loader.load_state_dict({"num_done": epoch * len(loader) + first})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keys dropout and everything else that draws from the global generators to (seed, batch, rank)."""
        seed_global_generators(derive_seed(self.seed, "batch", self.num_batches_done, self.global_rank))
        self._watched, self._skipped = {}, None
        if self.max_skipped_batches:
            self._buffers_before = [buffer.clone() for buffer in self.buffers()]
        for module in self._scheduled:
            cast(Any, module).set_progress(self.progress)

    def on_train_epoch_end(self) -> None:
        """Starts the meters anew, after callbacks have read them; a Trainer of one's own hears of them as of ``self.log``."""
        if not any(getattr(logger, WRITTEN, False) for logger in self.trainer.loggers):
            self.log_dict({tag: value for tag, value in self.scalars().items() if value is not None})
        for meters in self.meters.values():
            for meter in cast(nn.ModuleDict, meters).values():
                cast(Metric, meter).reset()
        check_equal(dict([*self.named_parameters(), *self.named_buffers()]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the counters, and the meters of all processes."""
        checkpoint["num_batches_done"] = self.num_batches_done
        checkpoint["plans"] = {name: plan.state() for name, plan in self._plans.items()}
        checkpoint["num_skipped_batches"] = self.num_skipped_batches
        checkpoint["meters"] = gathered(self.meters.state_dict())  # each process has its own

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the counters; the meters follow when training starts."""
        self.num_batches_done = checkpoint["num_batches_done"]
        self._loaded_plans = {name: Plan(**state) for name, state in checkpoint.get("plans", {}).items()}
        self.num_skipped_batches = checkpoint["num_skipped_batches"]
        self._loaded_meters = checkpoint["meters"]
