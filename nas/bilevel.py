"""How the gradient of the arch parameters is taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Protocol

from torch import Tensor

Level = Literal["weight", "arch"]


class Step(Protocol):
    """What one step of a search offers to a bilevel method; :class:`nas.SearchModule` implements it."""

    @property
    def arch_moves(self) -> bool:
        """Whether the arch parameters are trained in this step: past the warm-up, and there are any."""

    def loss(self, batch: Level) -> Tensor:
        """The supernet's loss on this step's batch of one data half, with op weights drawn for that half."""

    def arch_penalty(self) -> Tensor:
        """The regularisers' terms of the loss that the arch parameters descend."""

    def descend(self, loss: Tensor, *levels: Level) -> None:
        """One optimizer step of each named parameter set along the gradient of `loss`; others' gradients are not computed."""


class Bilevel(ABC):
    """Takes one step of the weight parameters, and one of the arch parameters where they move."""

    @abstractmethod
    def step(self, step: Step) -> None:
        """Takes the step."""


class FirstOrder(Bilevel):
    """Alpha descends the loss of the arch half at the present weights, then the weights descend the loss of the weight half.

    Source: Liu et al. 2019, "DARTS: Differentiable Architecture Search", first-order approximation (xi = 0).
    """

    def step(self, step: Step) -> None:
        if step.arch_moves:
            step.descend(step.loss("arch") + step.arch_penalty(), "arch")
        step.descend(step.loss("weight"), "weight")


class Joint(Bilevel):
    """Weights and alpha descend the same loss, that of the weight half; the arch half only judges the result.

    Source: Xie et al. 2019, "SNAS: Stochastic Neural Architecture Search".
    """

    def step(self, step: Step) -> None:
        loss = step.loss("weight")
        if step.arch_moves:
            step.descend(loss + step.arch_penalty(), "weight", "arch")
        else:
            step.descend(loss, "weight")
