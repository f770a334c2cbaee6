"""The search: network weights and arch parameters trained together while tau is annealed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas.bilevel import Bilevel, FirstOrder, Level
from nas.costs.functions import batch_size
from nas.evaluation import call_network, joined, split_batch
from nas.io.rng import derive_seed, keyed_generator, seed_global_generators, untouched_rng
from nas.lr_schedules import LRSchedule
from nas.paths import Paths
from nas.regularizers import ArchState, Regularizer, entropy
from nas.relaxations import OpWeights, Relaxation, Sampler
from nas.supernet.search_space import SearchSpace
from nas.supernet.supernet import Supernet, check_per_sample
from nas.tasks import Task
from nas.tau import TauSchedule
from nas.training.arch_statistics import GradientMeter, gradient_scalars, probability_scalars
from nas.training.cost_penalty import CostPenalty
from nas.training.train_module import OptimizerFactory, TrainModule, check_optimizer


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
        if noise == "sample":
            check_per_sample(relaxation)
        if num_paths < 1:
            raise ValueError(f"num_paths must be at least 1, got {num_paths}")
        if num_paths > 1 and (noise == "sample" or relaxation.acts_after_arch_step):
            why = "noise: sample" if noise == "sample" else type(relaxation).__name__
            raise ValueError(f"num_paths must be 1 with {why}")
        for regularizer in regularizers:
            if regularizer.needs_all_candidates and relaxation.num_active is not None:
                raise ValueError(
                    f"{type(regularizer).__name__} changes the weights of candidates that do not run under {type(relaxation).__name__}"
                )
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
        self.warmup_paths = warmup_paths
        self.num_paths = num_paths
        self.regularizers = list(regularizers)
        self.noise = noise
        self.noise_per_process = noise_per_process
        self.add_meters("weight")
        self.add_meters("arch")
        self.alpha_gradient = GradientMeter(self.supernet.alpha.shape)
        self._most_probable: Tensor  # of each choice, an epoch ago; -1 before the first
        self.register_buffer("_most_probable", torch.full((len(self.supernet.choices),), -1))
        self._batch: dict[str, Any] = {}
        self._samples: dict[Level, list[OpWeights]] = {}

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
        self._batch = dict(zip(("weight", "arch"), batch, strict=True))
        self.bilevel.step(self)
        self.finish_batch(alpha=self.supernet.alpha)
        self._batch = {}
        self._samples = {}

    @property
    def num_parts_in_turn(self) -> int:
        """Parts of a batch that run one after the other; without micro-batches all paths run together."""
        return self.num_paths * self.num_micro_batches if self.num_micro_batches > 1 else 1

    @property
    def arch_moves(self) -> bool:
        """Whether alpha is trained in this step."""
        return self.current_epoch >= self.warmup_epochs and "arch" in self._optimizers_by_name

    @property
    def present_weight_optimizer(self) -> Optimizer:
        """The optimizer of the weights, in its present state."""
        return self._optimizers_by_name["weight"]

    def named_weights(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, named as :meth:`virtual_loss` takes them."""
        trained = {id(p) for group in self.present_weight_optimizer.param_groups for p in group["params"]}
        return {
            name: parameter
            for name, parameter in _Criterion(self.supernet, self.task).named_parameters()
            if id(parameter) in trained and parameter.requires_grad
        }

    def draw(self, level: Level, part: int = 0) -> OpWeights:
        """This step's op weights for one data half, or a part of its batch: always the same ones within a step."""
        place = (self.num_batches_done, part) if part else (self.num_batches_done,)
        mine = f"/process {self.global_rank}" if self.noise_per_process and self.global_rank else ""
        generator = keyed_generator(self.seed, f"noise/{level}{mine}", *place, device=self.device)
        tau = self.tau(self.progress)
        if self.warmup_paths is not None and self.current_epoch < self.warmup_epochs and self.supernet.choices:
            sizes = [len(labels) for labels in self.supernet.choices.values()]
            index = self.num_batches_done * self.num_paths + part
            path = self.supernet.path(self.warmup_paths.candidates(sizes, index, self.seed))
            return path._replace(sampler=Sampler(self.relaxation, tau, generator))
        num_samples = batch_size(self._batch[level][1]) if self.noise == "sample" else None
        sample = self.supernet.sample(self.relaxation, tau, generator=generator, num_samples=num_samples)
        if self.regularizers and self.supernet.choices:
            state = self._state()
            generator = keyed_generator(self.seed, f"perturb/{level}{mine}", *place, device=self.device)
            for regularizer in self.regularizers:
                sample = sample._replace(weights=regularizer.perturb(sample.weights, state, level, generator))
            sample = sample._replace(weights=self.supernet.fill_input_rows(sample.weights))
        return sample

    def _state(self) -> ArchState:
        alpha, mask = self.supernet.learned_alpha(), self.supernet.mask
        probabilities = self.relaxation.probabilities(alpha, mask)
        return ArchState(self.supernet.choices, alpha, mask, probabilities, self.tau(self.progress), self.progress)

    def batch(self, level: Level) -> tuple[Any, Any]:
        """This step's (inputs, target) of `level`."""
        inputs, target = self._batch[level]
        return inputs, target

    def loss(self, level: Level, op_weights: OpWeights | None = None) -> Tensor:
        """The supernet's loss on this step's batch of `level`, metered where it is at the op weights drawn for it."""
        criterion = _Criterion(self.supernet, self.task)
        if op_weights is not None:
            loss: Tensor = criterion(*self._batch[level], op_weights)[0]
            return loss
        return self._mean_loss(level, criterion)

    def losses(self, level: Level) -> Iterator[Tensor]:
        """The same loss, part by part."""
        if self.num_micro_batches == 1:
            yield self.loss(level)
            return
        criterion, samples = _Criterion(self.supernet, self.task), {}

        def forward(number: int, inputs: Any, target: Tensor) -> tuple[Tensor, Any]:
            path = number // self.num_micro_batches
            samples[path] = self.draw(level, path)  # the same numbers for each part, a graph of its own
            loss, output = criterion(inputs, target, samples[path])
            return loss, self.task.prediction(output)

        yield from self.losses_of_micro_batches(level, self._batch[level], self.num_parts_in_turn, forward)
        self._samples[level] = list(samples.values())

    def virtual_loss(self, level: Level, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss at other weights, on cloned buffers; metered where it is the arch loss.

        Dropout is the same at every call of a step, and what it draws elsewhere is not disturbed.
        """
        criterion = _Criterion(self.supernet, self.task)
        buffers = {name: buffer.clone() for name, buffer in criterion.named_buffers()}
        exchanged = ({**weights}, buffers)
        with untouched_rng(self.device):
            seed_global_generators(derive_seed(self.seed, f"virtual/{level}", self.num_batches_done, self.global_rank))
            return self._mean_loss(level, lambda *args: functional_call(criterion, exchanged, args), level == "arch")

    def _mean_loss(self, level: Level, criterion: Callable[..., tuple[Tensor, Any]], metered: bool = True) -> Tensor:
        """The loss on a batch of which each part has op weights of its own."""
        inputs, target = self._batch[level]
        parts = split_batch(inputs, target, self.num_paths)
        self._samples[level] = [self.draw(level, part) for part in range(len(parts))]
        losses, outputs = [], []
        for part, sample in zip(parts, self._samples[level], strict=True):
            loss, output = criterion(*part, sample)
            losses.append(loss)
            outputs.append(self.task.prediction(output))
        shares = [batch_size(part_target) / batch_size(target) for _, part_target in parts]
        total = (
            losses[0] if len(parts) == 1 else torch.stack([a * b for a, b in zip(losses, shares, strict=True)]).sum()
        )
        if metered:
            self.update_meters(level, total, joined(outputs), target)
        return total

    def arch_penalty(self) -> Tensor:
        """The regularisers' terms of the arch loss; 0 without any."""
        total = self.supernet.alpha.new_zeros(())
        if self.regularizers and self.supernet.choices:
            state = self._state()
            for regularizer in self.regularizers:
                term = regularizer.penalty(state)
                total = total if term is None else total + term
        return total

    def descend(self, loss: Tensor | Iterable[Tensor], *levels: Level) -> None:
        """One optimizer step of each named parameter set along the gradient of `loss`, or of a sum."""
        self.descend_along(loss, levels)
        if "weight" in levels and self.averaged is not None:
            self.averaged.update_parameters(self.supernet.network)
        if "arch" in levels:
            if self.supernet.alpha.grad is not None:
                self.alpha_gradient.update(self.supernet.alpha.grad)
            # none where the method has computed its loss by itself
            for sample in self._samples.get("arch", self._samples.get("weight", [])):
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
                expected = regularizer.expected(self._state().probabilities)
                result[f"cost/{regularizer.expected.table.name}"] = float(expected)
        moved = self._argmax() != self._most_probable
        result["search/argmax_changes"] = None if bool((self._most_probable < 0).any()) else float(moved.sum())
        result |= gradient_scalars(self.alpha_gradient)
        return result | probability_scalars(self.supernet.probabilities(self.relaxation))

    def _argmax(self) -> Tensor:
        """The most probable candidate of each choice."""
        if not self.supernet.choices:
            return self._most_probable
        return self.relaxation.probabilities(self.supernet.alpha, self.supernet.mask).argmax(-1)

    @torch.no_grad()
    def entropies(self) -> dict[str, float]:
        """The entropy (nats) of every choice that is learned."""
        if not self.supernet.choices:
            return {}
        rows = entropy(self.relaxation.probabilities(self.supernet.alpha, self.supernet.mask)).tolist()
        named = zip(self.supernet.choices, rows, strict=True)
        return {name: value for name, value in named if name not in self.supernet.frozen}

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Shows the tau schedule the mean entropy, and starts the meters anew."""
        super().on_train_epoch_end()
        self.alpha_gradient.reset()
        self._most_probable.copy_(self._argmax())
        if entropies := self.entropies():
            self.tau.observe(sum(entropies.values()) / len(entropies), self.progress)


class _Criterion(nn.Module):
    """Supernet and task as one module, so that the weights of both can be exchanged for one call."""

    def __init__(self, supernet: Supernet, task: Task) -> None:
        super().__init__()
        self.supernet = supernet
        self.task = task

    def forward(self, inputs: Any, target: Tensor, op_weights: OpWeights) -> tuple[Tensor, Any]:
        output = call_network(self.supernet, inputs, op_weights=op_weights)
        return self.task.loss(output, target), output
