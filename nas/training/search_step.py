"""One step of a search, as a bilevel method sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from nas.bilevel import Level
from nas.costs.functions import batch_size
from nas.evaluation import observed
from nas.io.rng import derive_seed, seed_global_generators, untouched_rng
from nas.relaxations import OpWeights
from nas.supernet.supernet import Supernet
from nas.tasks import Task
from nas.training.train_module import total

if TYPE_CHECKING:
    from nas.training.search_module import SearchModule


class SearchStep:
    """Implements :class:`nas.bilevel.Step`: a pair of batches, the op weights drawn for them, and their losses.

    `samples` has the op weights at which the loss of each data split was computed.
    """

    def __init__(self, module: SearchModule, batches: Mapping[Level, tuple[Any, Any]]) -> None:
        self.supernet = module.supernet
        self.samples: dict[Level, list[OpWeights]] = {}
        self._module = module
        self._batches = batches
        self._criterion = Criterion(module.supernet, module.task)
        self._moment = module.moment()

    @property
    def arch_moves(self) -> bool:
        """Whether alpha is trained in this step."""
        return self._module.arch_moves

    @property
    def weights_move(self) -> bool:
        """Whether the weights are trained in this step."""
        return self._module.weights_move

    @property
    def present_weight_optimizer(self) -> Optimizer:
        """The optimizer of the weights, with its current state."""
        assert self._module.schedules is not None
        return self._module.schedules.optimizers["weight"]

    def arch_parameters(self) -> list[nn.Parameter]:
        """Alpha, and the parameters of the tau schedule and the relaxation."""
        return self._module.arch_parameters()

    def named_weights(self) -> dict[str, nn.Parameter]:
        """The trained weights, by the names that :meth:`virtual_loss` expects."""
        trained = {id(p) for group in self.present_weight_optimizer.param_groups for p in group["params"]}
        named = self._criterion.named_parameters()
        return {name: weight for name, weight in named if id(weight) in trained and weight.requires_grad}

    def batch(self, level: Level) -> tuple[Any, Any]:
        """This step's (inputs, target) of a data split."""
        return self._batches[level]

    def draw(self, level: Level, part: int = 0) -> OpWeights:
        """The op weights for a data split, or for a part of its batch: the same numbers at every call."""
        return self._module.sampling.draw(level, self._moment, batch_size(self._batches[level][1]), part)

    def loss(self, level: Level, op_weights: OpWeights | None = None) -> Tensor:
        """The supernet's loss on this step's batch; only the loss at the drawn op weights updates the metrics."""
        if op_weights is not None:
            loss: Tensor = self._criterion(*self._batches[level], op_weights)[0]
            return loss
        return self._mean_loss(level, self._criterion)

    def losses(self, level: Level) -> Iterator[Tensor]:
        """The same loss, as terms of a sum."""
        num_parts = self._module.num_parts_in_turn
        if num_parts == 1:
            yield self.loss(level)
            return
        samples: dict[int, OpWeights] = {}

        def forward(number: int, inputs: Any, target: Tensor) -> tuple[Tensor, Any]:
            path = number // self._module.num_micro_batches
            samples[path] = self.draw(level, path)  # every micro-batch has the same numbers, but its own graph
            result: tuple[Tensor, Any] = self._criterion(inputs, target, samples[path])
            return result

        yield from self._module.weighted_losses(level, self._batches[level], num_parts, forward)
        self.samples[level] = list(samples.values())

    def virtual_loss(self, level: Level, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss at other weights, on cloned buffers; for the arch split, it updates the metrics.

        Dropout is equal at every call within a step and does not affect other random draws.
        """
        buffers = {name: buffer.clone() for name, buffer in self._criterion.named_buffers()}
        with untouched_rng(self._module.device):
            seed_global_generators(
                derive_seed(self._module.seed, f"virtual/{level}", self._moment.batch, self._moment.rank)
            )
            return self._mean_loss(
                level,
                lambda *args: functional_call(self._criterion, ({**weights}, buffers), args),
                measured=level == "arch",
            )

    def _mean_loss(
        self, level: Level, criterion: Callable[..., tuple[Tensor, Any]], *, measured: bool = True
    ) -> Tensor:
        """The loss on a batch; each path has its own part and op weights."""
        samples = [self.draw(level, path) for path in range(self._module.sampling.num_paths)]
        self.samples[level] = samples
        losses = self._module.weighted_losses(
            level,
            self._batches[level],
            len(samples),
            lambda path, inputs, target: criterion(inputs, target, samples[path]),
            measured=measured,
        )
        return total(list(losses))

    def draw_paths(self, num: int) -> Tensor:
        """Independent paths from the distribution at this step's tau: the same paths at every call."""
        return self._module.sampling.draw_paths(self._moment, num)

    def log_prob(self, paths: Tensor) -> Tensor:
        """The log-probabilities of paths at this step's tau."""
        return self.supernet.joint.at(self.tau).log_prob(paths)

    @torch.no_grad()
    def path_losses(self, paths: Tensor) -> Tensor:
        """The losses of paths, forward-only: on this step's arch batch while the weights move, else on the arch split."""
        if self.weights_move:
            losses = torch.stack([self.loss("arch", self.supernet.path(path)) for path in paths.tolist()])
        else:
            found = [self._module.scores(path, self._moment.batch) for path in paths.tolist()]
            losses = torch.tensor(found, device=paths.device)
        self._module.metrics.see_loss("arch", losses)
        return losses

    @property
    def spread(self) -> float:
        """The standard deviation of the log losses of all scored architectures."""
        return self._module.scores.spread()

    @property
    def tau(self) -> Tensor:
        """The temperature of this step."""
        return self._module.tau(self._moment.progress)

    def arch_penalty(self) -> Tensor:
        """The sum of the regularizers' penalties in the arch loss."""
        return self._module.sampling.penalty(self._moment.progress)

    def descend(self, loss: Tensor | Iterable[Tensor], *levels: Level) -> None:
        """Takes one optimizer step of each named parameter set on `loss`, or on a sum of losses."""
        self._module.descend(loss, levels, self.samples)


class Criterion(nn.Module):
    """Supernet and task as one module, so that one call can use other weights for both."""

    def __init__(self, supernet: Supernet, task: Task) -> None:
        super().__init__()
        self.supernet = supernet
        self.task = task

    def forward(self, inputs: Any, target: Tensor, op_weights: OpWeights) -> tuple[Tensor, Any]:
        """The loss, and the output of the supernet."""
        output = observed(self.task, self.supernet, inputs, op_weights=op_weights)
        return self.task.loss(output, target), output
