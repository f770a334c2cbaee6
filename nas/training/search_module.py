"""The search: network weights and arch parameters trained together while tau is annealed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas.alpha import Alpha
from nas.bilevel import Bilevel, FirstOrder, Level
from nas.evaluation import prepared
from nas.paths import Paths
from nas.regularizers import Regularizer
from nas.relaxations import OpWeights, Relaxation
from nas.supernet.search_space import SearchSpace
from nas.supernet.selection import start_at_last
from nas.supernet.supernet import Supernet
from nas.tasks import Task
from nas.tau import TauSchedule
from nas.training import arch_statistics
from nas.training.cost_penalty import CostPenalty
from nas.training.fit import check_method, check_tau
from nas.training.lr_schedules import LRSchedule
from nas.training.path_scores import PathScores
from nas.training.sampling import Moment, Sampling
from nas.training.schedules import OptimizerFactory, check_optimizer
from nas.training.search_step import SearchStep
from nas.training.train_module import TrainModule


class SearchModule(TrainModule):
    """Searches a space. Each batch is a pair: (inputs, target) of the train split, and (inputs, target) of the arch split.

    Every draw is keyed by (seed, purpose, batch) and is equal on every rank, so that a resumed search continues exactly.

    Args:
        space: The search space.
        relaxation: Draws op weights from alpha.
        tau: Temperature schedule.
        task: The loss and the metrics.
        alpha: The distribution over architectures that the search learns; default :class:`nas.alpha.Factorised`.
        bilevel: Trains weights and alpha together; default :class:`nas.bilevel.FirstOrder`.
        weight_optimizer: Optimizer of the network's weights.
        arch_optimizer: Optimizer of alpha, and of parameters of `tau` and `relaxation`.
        weight_schedule: Learning-rate schedule of the weights.
        arch_schedule: Learning-rate schedule of alpha, over the epochs after the warm-up.
        start_logit: Logit of the last label of each choice at the start, rising evenly from 0 of its first label.
        warmup_epochs: Number of epochs at the start in which alpha is frozen.
        warmup_paths: Selects the candidates that the warm-up trains, and :class:`nas.paths.Stratified` those that train the weights
            afterwards; null: the relaxation draws them.
        num_paths: Number of parts of each batch, each with its own draw; gradients of the parts are averaged.
        num_micro_batches: Number of parts of each batch (or of a path's part) that run one after another; their gradients are summed
            (gradient accumulation). Only one part is in memory at a time. Without batch norms, the gradient is that of the whole batch.
        gradient_clip_norm: Largest norm of the weights' gradient; null: no clipping.
        average_decay: Decay, below 1, of a moving average of the weights, from which networks are derived; null: from the weights.
        max_skipped_batches: Number of batches with a loss or gradient that is not finite that may be skipped; one more stops the search.
        regularizers: Terms of the loss of alpha, and perturbations of the op weights.
        noise: One draw for each batch, or one for each sample (only if every candidate runs).
        noise_per_process: Each of several processes draws its own op weights, so that the gradient of alpha averages over more draws.
        checkpoint_candidates: Recompute candidates in the backward pass, which saves memory and costs time.
        compile: torch.compile of the whole supernet, forward and backward: ``default``, or ``reduce-overhead``, which replays CUDA graphs
            on CUDA. Only if every candidate runs; the first step takes minutes.
        seed: Seed of noise, data order and dropout; the command line sets it from seed_everything.

    Raises:
        ValueError: A value is out of range, or choices of the network conflict.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        relaxation: Relaxation,
        tau: TauSchedule,
        task: Task,
        alpha: Alpha | None = None,
        bilevel: Bilevel | None = None,
        weight_optimizer: OptimizerFactory = AdamW,
        arch_optimizer: OptimizerFactory = Adam,
        weight_schedule: LRSchedule = "constant",
        arch_schedule: LRSchedule = "constant",
        start_logit: float = 0.0,
        warmup_epochs: int = 0,
        warmup_paths: Paths | None = None,
        num_paths: int = 1,
        num_micro_batches: int = 1,
        gradient_clip_norm: float | None = None,
        average_decay: float | None = None,
        max_skipped_batches: int = 0,
        regularizers: Sequence[Regularizer] = (),
        noise: Literal["batch", "sample"] = "batch",
        noise_per_process: bool = False,
        checkpoint_candidates: bool = False,
        compile: Literal["off", "default", "reduce-overhead"] = "off",
        seed: int = 0,
    ) -> None:
        super().__init__(
            task,
            seed=seed,
            gradient_clip_norm=gradient_clip_norm,
            max_skipped_batches=max_skipped_batches,
            num_micro_batches=num_micro_batches,
        )
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must be at least 0, got {warmup_epochs}")
        if num_micro_batches > 1 and noise == "sample":
            raise ValueError("num_micro_batches must be 1 with noise: sample")
        if average_decay is not None and not 0.0 < average_decay < 1.0:
            raise ValueError(f"average_decay must lie between 0 and 1, got {average_decay}")
        self.space = space
        task.teach(space.parent)
        self.supernet = Supernet(
            space.network("search"), checkpoint_candidates=checkpoint_candidates, distribution=alpha
        )
        start_at_last(self.supernet, start_logit)
        self.scores = PathScores(self.supernet)
        self.averaged: AveragedModel | None = None
        if average_decay is not None:
            self.averaged = AveragedModel(self.supernet.network, multi_avg_fn=get_ema_multi_avg_fn(average_decay))
        self.relaxation, self.tau, self.regularizers = relaxation, tau, list(regularizers)
        self.sampling = Sampling(
            supernet=self.supernet,
            relaxation=relaxation,
            tau=tau,
            regularizers=self.regularizers,
            warmup_paths=warmup_paths,
            num_paths=num_paths,
            noise=noise,
            noise_per_process=noise_per_process,
            seed=seed,
        )
        check_tau(tau, task)
        self.bilevel = bilevel if bilevel is not None else FirstOrder()
        self.num_weight_epochs = self.bilevel.num_weight_epochs(warmup_epochs)
        check_method(
            self.bilevel,
            relaxation,
            self.supernet.joint,
            checkpoint_candidates=checkpoint_candidates,
            compiled=compile != "off",
            num_micro_batches=num_micro_batches,
            warmup_epochs=warmup_epochs,
            warmup_paths=warmup_paths,
            average_decay=average_decay,
            regularizers=self.regularizers,
        )
        if compile != "off":
            self.supernet.compile(fullgraph=True, mode=compile)  # at its first call, as one graph
        self.bilevel.check(check_optimizer("weight_optimizer", weight_optimizer, weight_schedule))
        check_optimizer("arch_optimizer", arch_optimizer, arch_schedule)
        self.weight_optimizer, self.arch_optimizer = weight_optimizer, arch_optimizer
        self.weight_schedule, self.arch_schedule = weight_schedule, arch_schedule
        self.warmup_epochs = warmup_epochs
        self.metrics.add("weight", task)
        self.metrics.add("arch", task)
        self.alpha_gradient = arch_statistics.GradientStatistics(self.supernet.alpha.shape)
        self._most_probable: Tensor  # of each choice, one epoch ago; -1 in the first epoch
        self.register_buffer("_most_probable", torch.full((len(self.supernet.choices),), -1))

    def weight_parameters(self) -> list[nn.Parameter]:
        """Parameters of the network and the task."""
        return [*self.supernet.weight_parameters(), *self.task.parameters()]

    def arch_parameters(self) -> list[nn.Parameter]:
        """Alpha, and the parameters of the tau schedule and the relaxation."""
        return [*self.supernet.arch_parameters(), *self.tau.parameters(), *self.relaxation.parameters()]

    def configure_optimizers(self) -> Any:
        """One optimizer and one schedule per parameter set; no arch optimizer without arch parameters."""
        optimizers = {"weight": self.weight_optimizer(self.weight_parameters())}
        rest, arch_parameters = self.warmup_epochs * self.num_batches_per_epoch, self.arch_parameters()
        num_steps = self.num_batches_total
        if arch_parameters and self.num_weight_epochs is not None:
            num_steps = min(num_steps, self.num_weight_epochs * self.num_batches_per_epoch)
        schedules: dict[str, tuple[LRSchedule, int]] = {"weight": (self.weight_schedule, num_steps)}
        if arch_parameters:
            optimizers["arch"] = self.arch_optimizer(arch_parameters)
            schedules["arch"] = (self.arch_schedule, max(1, self.num_batches_total - rest))
        return self.set_up_optimizers(optimizers, schedules)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step of the bilevel method on a pair of batches."""
        weight, arch = (prepared(self.task, self.supernet, part) for part in batch)
        self.bilevel.step(SearchStep(self, {"weight": weight, "arch": arch}))
        self.finish_batch(alpha=self.supernet.alpha)
        if self.bilevel.draws_at_tau:
            self.supernet.distribution.temperature.copy_(self.tau(self.progress).detach())

    def moment(self) -> Moment:
        """The current point in the search."""
        return Moment(self.num_batches_done, self.progress, self.current_epoch < self.warmup_epochs, self.global_rank)

    @property
    def num_parts_in_turn(self) -> int:
        """Number of parts of a batch that run one after another; without micro-batches, all paths run together."""
        return self.sampling.num_paths * self.num_micro_batches if self.num_micro_batches > 1 else 1

    @property
    def arch_moves(self) -> bool:
        """Whether alpha is trained in this step."""
        return "arch" in getattr(self.schedules, "optimizers", ()) and self.current_epoch >= self.warmup_epochs

    @property
    def describes_joint(self) -> bool:
        """Whether the distribution over architectures is described as a whole, and not only by the probabilities of each choice."""
        if not self.supernet.choices or self.supernet.input_rows.has_any:
            return False
        return self.bilevel.draws_at_tau or not self.supernet.distribution.is_factorised

    @property
    def weights_move(self) -> bool:
        """Whether the weights are trained in this step."""
        last = self.num_weight_epochs if self.arch_parameters() else None
        return last is None or self.current_epoch < last

    def descend(
        self, loss: Tensor | Iterable[Tensor], levels: Sequence[Level], samples: Mapping[Level, list[OpWeights]]
    ) -> None:
        """Takes one optimizer step of each named parameter set on `loss`, or on a sum of losses.

        `samples` maps a data split to the op weights at which the loss was computed.
        """
        self.descend_along(loss, levels)
        if "weight" in levels and self.averaged is not None:
            self.averaged.update_parameters(self.supernet.network)
        if "arch" in levels:
            if self.supernet.alpha.grad is not None:
                self.alpha_gradient.update(self.supernet.alpha.grad)
            # no samples if the method computed its own loss
            for sample in samples.get("arch", samples.get("weight", [])):
                self.supernet.after_arch_step(self.relaxation, sample)

    @torch.no_grad()
    def use_average(self) -> None:
        """Copies the averaged weights, if there are any, into the supernet. A finished search uses these weights."""
        if self.averaged is not None and int(self.averaged.n_averaged) > 0:
            ours = self.supernet.network.parameters()
            for parameter, average in zip(ours, self.averaged.module.parameters(), strict=True):
                parameter.copy_(average)

    def batches_of(self, batch: Any) -> list[Any]:
        """The batches of the train split and of the arch split; raises ValueError if `batch` is not a pair of batches."""
        pair = list(batch) if isinstance(batch, (tuple, list)) else []
        if len(pair) != 2 or not all(isinstance(half, (tuple, list)) and len(half) == 2 for half in pair):
            raise ValueError(
                "SearchModule needs pairs of batches, ((inputs, target) of the train split, (inputs, target) of the arch split), as "
                "SearchDataModule.search_loader or a CombinedLoader of two loaders yields them"
            )
        return pair

    @torch.no_grad()
    def scalars(self) -> dict[str, float | None]:
        """Losses, metrics, learning rates, tau, expected costs, entropies (nats) and probabilities of every choice."""
        result = {**super().scalars(), "search/tau": float(self.tau(self.progress))}
        probabilities = self.supernet.probabilities(self.relaxation)
        entropies = self.entropies(probabilities)
        result["search/entropy"] = arch_statistics.mean_of(entropies)
        result |= {f"entropy/{name}": value for name, value in entropies.items()}
        for regularizer in self.regularizers:
            if isinstance(regularizer, CostPenalty):
                expected = regularizer.expected(self.sampling.state(self.progress).probabilities)
                result[f"cost/{regularizer.expected.table.name}"] = float(expected)
        moved = arch_statistics.argmax_of(probabilities) != self._most_probable.cpu()
        result["search/argmax_changes"] = None if bool((self._most_probable < 0).any()) else float(moved.sum())
        result |= arch_statistics.gradient_scalars(self.alpha_gradient)
        if self.describes_joint:
            result |= arch_statistics.joint_scalars(self.supernet.joint)
        return result | arch_statistics.probability_scalars(probabilities)

    @torch.no_grad()
    def entropies(self, probabilities: arch_statistics.Probabilities | None = None) -> dict[str, float]:
        """The entropy (nats) of every choice that is not frozen; `probabilities` are the present ones, if they are known."""
        return arch_statistics.entropies_of(
            probabilities or self.supernet.probabilities(self.relaxation), self.supernet.frozen
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["scores"] = self.scores.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.scores.load_state_dict(checkpoint.get("scores", []))

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Passes the mean entropy and the diversity to the tau schedule, and resets the metrics."""
        diversity = self.metrics.scalars(self.metric_names).get("weight/diversity")
        super().on_train_epoch_end()
        self.alpha_gradient.reset()
        probabilities = self.supernet.probabilities(self.relaxation)
        self._most_probable.copy_(arch_statistics.argmax_of(probabilities))
        if (mean := arch_statistics.mean_of(self.entropies(probabilities))) is not None:
            self.tau.observe(mean, self.progress)
        if diversity is not None:
            self.tau.observe_diversity(diversity, self.progress)
