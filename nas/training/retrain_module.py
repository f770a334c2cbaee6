"""Training of a plain, derived network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

from nas.evaluation import observed, prepared
from nas.tasks import Task
from nas.training.lr_schedules import LRSchedule
from nas.training.schedules import OptimizerFactory, check_optimizer
from nas.training.train_module import TrainModule


class RetrainModule(TrainModule):
    """Trains one network on (inputs, target) batches.

    Args:
        network: Any plain network.
        task: The loss and the metrics.
        optimizer: Optimizer of the weights.
        scheduler: Learning-rate schedule.
        gradient_clip_norm: Largest norm of the gradient; null: no clipping.
        max_skipped_batches: Number of batches that may be skipped because their loss or gradient is not finite; the next such batch stops
            the training.
        num_micro_batches: Number of parts of each batch that run one after another; their gradients are summed (gradient accumulation).
        seed: Seed of data order and dropout.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        *,
        optimizer: OptimizerFactory = AdamW,
        scheduler: LRSchedule = "constant",
        gradient_clip_norm: float | None = None,
        max_skipped_batches: int = 0,
        num_micro_batches: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            task,
            seed=seed,
            gradient_clip_norm=gradient_clip_norm,
            max_skipped_batches=max_skipped_batches,
            num_micro_batches=num_micro_batches,
        )
        check_optimizer("optimizer", optimizer, scheduler)
        self.network = network
        self.optimizer = optimizer
        self.scheduler: LRSchedule = scheduler
        self.metrics.add("train", task)

    def configure_optimizers(self) -> Any:
        """One optimizer for the network and the task's own parameters."""
        optimizer = self.optimizer([*self.network.parameters(), *self.task.parameters()])
        return self.set_up_optimizers({"weight": optimizer}, {"weight": (self.scheduler, self.num_batches_total)})

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One optimizer step."""
        batch = prepared(self.task, self.network, batch)
        self.descend_along(self.weighted_losses("train", batch, self.num_micro_batches, self._loss), ["weight"])
        self.finish_batch()

    def _loss(self, number: int, inputs: Any, target: Tensor) -> tuple[Tensor, Any]:
        output = observed(self.task, self.network, inputs)
        return self.task.loss(output, target), output
