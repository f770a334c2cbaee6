"""Alpha and the weights trained one after the other, or on one loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from nas.bilevel.base import Alternating, ArchStep, Bilevel, Step


class FirstOrder(Alternating):
    """Trains alpha on the arch split at the current weights, then trains the weights on the train split.

    Source: Liu et al. 2019, "DARTS: Differentiable Architecture Search", first-order approximation (xi = 0).
    """

    accumulates = True

    def arch_step(self, step: ArchStep) -> None:
        step.descend(_penalized(step.losses("arch"), step.arch_penalty()), "arch")


class Joint(Bilevel):
    """Trains weights and alpha on the same loss, the loss of the train split. The arch split only evaluates the result.

    Source: Xie et al. 2019, "SNAS: Stochastic Neural Architecture Search".
    """

    differentiates_weight_loss = True
    accumulates = True

    def step(self, step: Step) -> None:
        if step.arch_moves:
            step.descend(_penalized(step.losses("weight"), step.arch_penalty()), "weight", "arch")
        else:
            step.descend(step.losses("weight"), "weight")


def _penalized(losses: Iterable[Tensor], penalty: Tensor) -> Iterator[Tensor]:
    """The parts of a loss, with a penalty added to the first."""
    for i, loss in enumerate(losses):
        yield loss if i else loss + penalty
