"""The search: network weights and arch parameters trained together while tau is annealed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas.bilevel import Bilevel, FirstOrder, Level
from nas.paths import Paths
from nas.regularizers import Regularizer, entropy
from nas.relaxations import OpWeights, Relaxation
from nas.supernet.search_space import SearchSpace
from nas.supernet.supernet import Supernet
from nas.tasks import Task
from nas.tau import TauSchedule
from nas.training.arch_statistics import GradientStatistics, gradient_scalars, probability_scalars
from nas.training.cost_penalty import CostPenalty
from nas.training.lr_schedules import LRSchedule
from nas.training.sampling import Moment, Sampling
from nas.training.schedules import OptimizerFactory, check_optimizer
from nas.training.search_step import SearchStep
from nas.training.train_module import TrainModule


class SearchModule(TrainModule):
    """Searches a space. Each batch is a pair: (inputs, target) of the weight half, and of the arch half.

    Every draw is keyed by (seed, purpose, batch), the same on every rank, so that a resumed search goes on exactly where it stopped.

    Args:
        space: What is searched.
        relaxation: How op weights are drawn from alpha.
        tau: Temperature over the course of the search.
        task: What is minimised and measured.
        bilevel: How the gradient of alpha is taken; default :class:`nas.bilevel.FirstOrder`.
        weight_optimizer: Optimizer of the network's weights.
        arch_optimizer: Optimizer of alpha, and of parameters of `tau` and `relaxation`.
        weight_schedule: Learning rate of the weights over the search.
        arch_schedule: Learning rate of alpha over the epochs after the warm-up.
        warmup_epochs: Epochs in which alpha rests.
        warmup_paths: Which candidates are trained meanwhile; null: those that the relaxation draws from alpha at rest.
        num_paths: Parts of each batch that get a draw of their own; their gradients are averaged.
        num_micro_batches: Parts of each batch (or path's share of it) that run one after the other, their gradients added up: the
            memory of one part, the gradient of the whole batch where no norm looks at its own part (gradient accumulation).
        gradient_clip_norm: Largest norm of the weights' gradient; null: as it comes.
        average_decay: Decay of an exponential moving average of the weights, below 1 (0.999 looks back about 1,000 batches), from which
            networks are derived; null: from the weights as they are.
        max_skipped_batches: So many batches whose loss or gradient is not finite are left out, and counted; the next one stops the
            search.
        regularizers: Terms added to the loss that alpha descends, and disturbances of the op weights.
        noise: One draw for each batch, or each sample's own (only where every candidate runs).
        noise_per_process: With several processes, each draws its own op weights, and the gradients of alpha average over more of them;
            otherwise all draw the same.
        checkpoint_candidates: Recompute candidates in the backward pass, trading time for memory.
        compile: torch.compile of the whole supernet, forward and backward: ``default``, or ``reduce-overhead``, which on CUDA replays
            CUDA graphs. Only where every candidate runs; the first step takes minutes.
        seed: Seed of noise, data order and dropout; the command line sets it from seed_everything.

    Raises:
        ValueError: A value out of range, or a network whose choices clash.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        relaxation: Relaxation,
        tau: TauSchedule,
        task: Task,
        bilevel: Bilevel | None = None,
        weight_optimizer: OptimizerFactory = AdamW,
        arch_optimizer: OptimizerFactory = Adam,
        weight_schedule: LRSchedule = "constant",
        arch_schedule: LRSchedule = "constant",
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
        self.supernet = Supernet(space.network("search"), checkpoint_candidates=checkpoint_candidates)
        self.averaged: AveragedModel | None = None
        if average_decay is not None:
            average = get_ema_multi_avg_fn(average_decay)
            self.averaged = AveragedModel(self.supernet.network, multi_avg_fn=average)
        self.relaxation = relaxation
        self.tau = tau
        self.regularizers = list(regularizers)
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
        self.bilevel = bilevel if bilevel is not None else FirstOrder()
        if checkpoint_candidates and not self.bilevel.recomputes:
            raise ValueError(
                f"{type(self.bilevel).__name__} cannot recompute candidates: set checkpoint_candidates to false"
            )
        if num_micro_batches > 1 and not self.bilevel.accumulates:
            raise ValueError(f"num_micro_batches must be 1 with {type(self.bilevel).__name__}")
        if compile != "off":
            self._compile(compile, checkpoint_candidates)
        self.bilevel.check(check_optimizer("weight_optimizer", weight_optimizer))
        check_optimizer("arch_optimizer", arch_optimizer)
        self.weight_optimizer = weight_optimizer
        self.arch_optimizer = arch_optimizer
        self.weight_schedule: LRSchedule = weight_schedule
        self.arch_schedule: LRSchedule = arch_schedule
        self.warmup_epochs = warmup_epochs
        self.metrics.add("weight", task)
        self.metrics.add("arch", task)
        self.alpha_gradient = GradientStatistics(self.supernet.alpha.shape)
        self._most_probable: Tensor  # of each choice, an epoch ago; -1 before the first
        self.register_buffer("_most_probable", torch.full((len(self.supernet.choices),), -1))

    def _compile(self, mode: str, checkpoint_candidates: bool) -> None:
        """Has the supernet compiled at its first call, as one graph."""
        if self.relaxation.num_active is not None:
            raise ValueError(
                f"compile: {type(self.relaxation).__name__} runs other candidates each step; set it to off"
            )
        if not self.bilevel.recomputes or checkpoint_candidates:
            name = "checkpoint_candidates" if checkpoint_candidates else type(self.bilevel).__name__
            raise ValueError(f"compile: {name} needs more than the compiled graph's first gradient; set it to off")
        self.supernet.compile(fullgraph=True, mode=mode)

    def weight_parameters(self) -> list[nn.Parameter]:
        """Parameters of the network and the task."""
        return [*self.supernet.weight_parameters(), *self.task.parameters()]

    def arch_parameters(self) -> list[nn.Parameter]:
        """Alpha, and parameters of the tau schedule and the relaxation."""
        return [*self.supernet.arch_parameters(), *self.tau.parameters(), *self.relaxation.parameters()]

    def configure_optimizers(self) -> Any:
        """One optimizer and one schedule a parameter set; no arch optimizer where there are no arch parameters."""
        optimizers = {"weight": self.weight_optimizer(self.weight_parameters())}
        schedules: dict[str, tuple[LRSchedule, int]] = {"weight": (self.weight_schedule, self.num_batches_total)}
        if arch_parameters := self.arch_parameters():
            optimizers["arch"] = self.arch_optimizer(arch_parameters)
            rest = self.warmup_epochs * self.num_batches_per_epoch
            schedules["arch"] = (self.arch_schedule, max(1, self.num_batches_total - rest))
        return self.set_up_optimizers(optimizers, schedules)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step of the bilevel method on a pair of batches."""
        weight, arch = batch
        self.bilevel.step(SearchStep(self, {"weight": weight, "arch": arch}))
        self.finish_batch(alpha=self.supernet.alpha)

    def moment(self) -> Moment:
        """The present place in the search."""
        warm_up = self.current_epoch < self.warmup_epochs
        return Moment(self.num_batches_done, self.progress, warm_up, self.global_rank)

    @property
    def num_parts_in_turn(self) -> int:
        """Parts of a batch that run one after the other; without micro-batches all paths run together."""
        return self.sampling.num_paths * self.num_micro_batches if self.num_micro_batches > 1 else 1

    @property
    def arch_moves(self) -> bool:
        """Whether alpha is trained in this step."""
        moves = self.schedules is not None and "arch" in self.schedules.optimizers
        return moves and self.current_epoch >= self.warmup_epochs

    def descend(
        self, loss: Tensor | Iterable[Tensor], levels: Sequence[Level], samples: Mapping[Level, list[OpWeights]]
    ) -> None:
        """One optimizer step of each named parameter set along the gradient of `loss`, or of a sum of losses.

        Args:
            loss: The loss, or its terms, which are computed one after the other.
            levels: Names of the parameter sets.
            samples: Data split -> the op weights at which the loss was computed.
        """
        self.descend_along(loss, levels)
        if "weight" in levels and self.averaged is not None:
            self.averaged.update_parameters(self.supernet.network)
        if "arch" in levels:
            if self.supernet.alpha.grad is not None:
                self.alpha_gradient.update(self.supernet.alpha.grad)
            for sample in samples.get("arch", samples.get("weight", [])):  # none for a loss of the method's own
                self.supernet.after_arch_step(self.relaxation, sample)

    @torch.no_grad()
    def use_average(self) -> None:
        """Gives the supernet its averaged weights, if there are any: what a finished search goes on with."""
        if self.averaged is not None and int(self.averaged.n_averaged) > 0:
            ours = self.supernet.network.parameters()
            for parameter, average in zip(ours, self.averaged.module.parameters(), strict=True):
                parameter.copy_(average)

    def batches_of(self, batch: Any) -> list[Any]:
        """Both halves' batches.

        Raises:
            ValueError: It is no pair of batches.
        """
        pair = list(batch) if isinstance(batch, (tuple, list)) else []
        if len(pair) != 2 or not all(isinstance(half, (tuple, list)) and len(half) == 2 for half in pair):
            raise ValueError(
                "SearchModule needs pairs of batches, ((inputs, target) of the weight half, (inputs, target) of the arch half), as "
                "SearchDataModule.search_loader or a CombinedLoader of two loaders gives them"
            )
        return pair

    @torch.no_grad()
    def scalars(self) -> dict[str, float | None]:
        """Losses, metrics, learning rates, tau, expected costs, entropies (nats) and probabilities of every choice."""
        result = super().scalars()
        result["search/tau"] = float(self.tau(self.progress))
        entropies = self.entropies()
        result["search/entropy"] = sum(entropies.values()) / len(entropies) if entropies else None
        result |= {f"entropy/{name}": value for name, value in entropies.items()}
        for regularizer in self.regularizers:
            if isinstance(regularizer, CostPenalty):
                expected = regularizer.expected(self.sampling.state(self.progress).probabilities)
                result[f"cost/{regularizer.expected.table.name}"] = float(expected)
        moved = self._argmax() != self._most_probable
        result["search/argmax_changes"] = None if bool((self._most_probable < 0).any()) else float(moved.sum())
        result |= gradient_scalars(self.alpha_gradient)
        return result | probability_scalars(self.supernet.probabilities(self.relaxation))

    def _argmax(self) -> Tensor:
        """The most probable candidate of each choice."""
        if not self.supernet.choices:
            return self._most_probable
        return self.supernet.probability_rows(self.relaxation).argmax(-1)

    @torch.no_grad()
    def entropies(self) -> dict[str, float]:
        """The entropy (nats) of every choice that is learned."""
        if not self.supernet.choices:
            return {}
        rows = entropy(self.supernet.probability_rows(self.relaxation)).tolist()
        named = zip(self.supernet.choices, rows, strict=True)
        return {name: value for name, value in named if name not in self.supernet.frozen}

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Shows the tau schedule the mean entropy, and resets the metrics."""
        super().on_train_epoch_end()
        self.alpha_gradient.reset()
        self._most_probable.copy_(self._argmax())
        if entropies := self.entropies():
            self.tau.observe(sum(entropies.values()) / len(entropies), self.progress)
