"""The interface of methods that train weight parameters and arch parameters together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from nas.relaxations import OpWeights

Level = Literal["weight", "arch"]


class ArchStep(Protocol):
    """The part of a search step that trains alpha; also inside a training loop of the user, with :class:`nas.Searcher`."""

    @property
    def arch_moves(self) -> bool:
        """Whether this step trains arch parameters: the search has some, and the warm-up is over."""

    @property
    def weights_move(self) -> bool:
        """Whether this step trains the weights."""

    def losses(self, batch: Level) -> Iterator[Tensor]:
        """The loss as terms of a sum. Pass the iterator to :meth:`descend`, which runs backward on each term before the next."""

    def arch_penalty(self) -> Tensor:
        """The sum of the regularizers' penalties, for the loss of the arch parameters."""

    def draw_paths(self, num: int) -> Tensor:
        """Independent paths from the distribution at this step's tau, (num, E) int64; every call within a step returns the same paths."""

    def log_prob(self, paths: Tensor) -> Tensor:
        """The log-probabilities (num,) of paths at this step's tau, differentiable in the arch parameters."""

    def path_losses(self, paths: Tensor) -> Tensor:
        """The losses (P,) of paths with the present weights, forward-only.

        While the weights move, on this step's arch batch; while they rest, on the whole arch split, and remembered.
        """

    @property
    def spread(self) -> float:
        """The standard deviation of the log losses of all architectures that were scored while the weights rest; 1 below two of them."""

    @property
    def tau(self) -> Tensor:
        """The temperature of this step."""

    def descend(self, loss: Tensor | Iterable[Tensor], *levels: Level) -> None:
        """Takes one optimizer step of each named parameter set on `loss`, or on a sum of losses. Computes no other gradients."""


class Step(ArchStep, Protocol):
    """The interface of one search step for bilevel methods; :class:`nas.SearchModule` implements it."""

    @property
    def present_weight_optimizer(self) -> Optimizer:
        """The optimizer of the weights, with its current state."""

    def named_weights(self) -> dict[str, nn.Parameter]:
        """The trained weights, by the names that :meth:`virtual_loss` expects."""

    def arch_parameters(self) -> Sequence[nn.Parameter]:
        """Alpha, and all other parameters of the arch optimizer."""

    def batch(self, level: Level) -> tuple[Any, Any]:
        """This step's (inputs, target) of one data split, for a loss that the method computes itself."""

    def draw(self, level: Level, part: int = 0) -> OpWeights:
        """The op weights of this step for one data split; every call within a step returns the same values."""

    def loss(self, batch: Level, op_weights: OpWeights | None = None) -> Tensor:
        """The supernet's loss on this step's batch of one data split.

        Args:
            batch: The data split.
            op_weights: Op weights for the loss, for example further draws of a score-function estimator; None: the draw for that split.
        """

    def virtual_loss(self, batch: Level, weights: Mapping[str, Tensor]) -> Tensor:
        """The same loss at other weights. Changes to buffers (batch-norm statistics) are discarded."""


class Bilevel(ABC):
    """Base class of bilevel methods. Each step trains the weight parameters and, after the warm-up, the arch parameters.

    A custom method computes a scalar loss and passes it to ``step.descend``. The loss comes from ``step.loss``, at the drawn op weights or
    at others, or the method computes it from ``step.batch``. :func:`nas.testing.check_bilevel` checks a custom method.
    """

    recomputes = True
    """Whether the method supports candidates that are recomputed in the backward pass (activation checkpointing)."""

    differentiates_weight_loss = False
    """Whether the gradient of the arch parameters passes through the loss on the train split."""

    draws_at_tau = False
    """Whether paths are drawn from the distribution at tau, so that its probabilities are read there too."""

    accumulates = False
    """Whether the method uses ``step.losses``, so that only one part of a batch needs memory at a time (gradient accumulation)."""

    @abstractmethod
    def step(self, step: Step) -> None:
        """Takes the step."""

    def num_weight_epochs(self, warmup_epochs: int) -> int | None:
        """Number of epochs at the start that train the weights; None: all."""
        return None

    def check(self, weight_optimizer: Optimizer) -> None:  # noqa: B027  (most methods work with every optimizer)
        """Raises ValueError for an optimizer that the method does not support; called before a search."""


class Alternating(Bilevel):
    """Base class of methods that first train alpha, then the weights on their own loss. A loop of the user may do the second part."""

    @abstractmethod
    def arch_step(self, step: ArchStep) -> None:
        """Trains alpha; called only if ``step.arch_moves``."""

    def step(self, step: Step) -> None:
        if step.arch_moves:
            self.arch_step(step)
        if step.weights_move:
            step.descend(step.losses("weight"), "weight")
