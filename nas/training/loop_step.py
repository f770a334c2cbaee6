"""The part of a search step that trains alpha, inside a training loop of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nas.bilevel import Level
from nas.io.distributed import average_gradients
from nas.relaxations import OpWeights
from nas.supernet.running import running
from nas.training.sampling import Moment, Sampling
from nas.training.schedules import Schedules


class LoopStep:
    """Implements what :meth:`nas.bilevel.Alternating.arch_step` needs of :class:`nas.bilevel.Step`.

    Args:
        sampling: Draws the op weights.
        schedules: Holds the optimizer ``arch`` and its learning rates.
        moment: The point in the search.
        part: Number of steps of alpha since the last step of the weights, so that each has a draw of its own.
        compute: Computes the loss of a batch by calling the network.
    """

    arch_moves = True
    weights_move = True
    spread = 1.0

    def __init__(
        self, sampling: Sampling, schedules: Schedules, moment: Moment, part: int, compute: Callable[[], Tensor]
    ) -> None:
        self._sampling, self._schedules = sampling, schedules
        self._moment, self._part, self._compute = moment, part, compute
        self._samples: list[OpWeights] = []
        self._losses: list[Tensor] = []

    @property
    def mean_loss(self) -> Tensor:
        """The mean of the computed losses."""
        return torch.stack(self._losses).mean()

    @property
    def tau(self) -> Tensor:
        """The temperature of this step."""
        return self._sampling.tau(self._moment.progress)

    def loss(self, batch: Level, op_weights: OpWeights | None = None) -> Tensor:
        """The loss at given op weights, or at the draw of this step."""
        if op_weights is None:
            op_weights = self._sampling.draw("arch", self._moment, 1, self._part)
            self._samples.append(op_weights)
        supernet = self._sampling.supernet
        with supernet.noting_used() as used, running(supernet, op_weights):
            loss: Any = self._compute()
        if not isinstance(loss, Tensor) or loss.dim() > 0:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"the loss of arch_step must be one number (a tensor without dimensions), got {found}")
        if not used:
            raise ValueError("the loss of arch_step does not depend on alpha: it does not call the searched network")
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss of alpha is not finite at step {self._moment.batch}")
        self._losses.append(loss.detach())
        return loss

    def losses(self, batch: Level) -> Iterator[Tensor]:
        """The loss at the draw of this step, as the only term."""
        yield self.loss(batch)

    def draw_paths(self, num: int) -> Tensor:
        """Independent paths from the distribution at this step's tau."""
        return self._sampling.draw_paths(self._moment, num, self._part)

    def log_prob(self, paths: Tensor) -> Tensor:
        """The log-probabilities of paths at this step's tau."""
        return self._sampling.supernet.joint.at(self.tau).log_prob(paths)

    @torch.no_grad()
    def path_losses(self, paths: Tensor) -> Tensor:
        """The losses of paths, forward-only."""
        supernet = self._sampling.supernet
        return torch.stack([self.loss("arch", supernet.path(path)).float() for path in paths.tolist()])

    def arch_penalty(self) -> Tensor:
        """The sum of the regularizers' penalties."""
        return self._sampling.penalty(self._moment.progress)

    def descend(self, loss: Tensor | Iterable[Tensor], *levels: Level) -> None:
        """Takes a step of the optimizer of alpha. Weights keep their gradients, so that a loop may accumulate them."""
        optimizer = self._schedules.optimizers["arch"]
        parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.zero_grad()
        for term in [loss] if isinstance(loss, Tensor) else loss:
            if not term.requires_grad:
                raise ValueError("the loss of arch_step does not depend on alpha: it has no gradient")
            for parameter, grad in zip(
                parameters, torch.autograd.grad(term, parameters, allow_unused=True), strict=True
            ):
                if grad is not None:
                    parameter.grad = grad if parameter.grad is None else parameter.grad + grad
        average_gradients(parameters)
        if any(p.grad is not None and not bool(torch.isfinite(p.grad).all()) for p in parameters):
            raise FloatingPointError(f"the gradient of alpha is not finite at step {self._moment.batch}")
        optimizer.step()
        self._schedules.advance("arch")
        for sample in self._samples:
            self._sampling.supernet.after_arch_step(self._sampling.relaxation, sample)
