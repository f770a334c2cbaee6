"""Methods that train weight parameters and arch parameters together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from nas.relaxations import OpWeights
from nas.relaxations.estimators import leave_one_out

Level = Literal["weight", "arch"]


class Step(Protocol):
    """The interface of one search step for bilevel methods; :class:`nas.SearchModule` implements it."""

    @property
    def arch_moves(self) -> bool:
        """Whether this step trains arch parameters: the search has some, and the warm-up is over."""

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

    def losses(self, batch: Level) -> Iterator[Tensor]:
        """The same loss as terms of a sum. Pass the iterator to :meth:`descend`, which runs backward on each term before the next."""

    def virtual_loss(self, batch: Level, weights: Mapping[str, Tensor]) -> Tensor:
        """The same loss at other weights. Changes to buffers (batch-norm statistics) are discarded."""

    def arch_penalty(self) -> Tensor:
        """The sum of the regularizers' penalties, for the loss of the arch parameters."""

    def draw_paths(self, num: int) -> Tensor:
        """Independent paths from the distribution at this step's tau, (num, E) int64; every call within a step returns the same paths."""

    def log_prob(self, paths: Tensor) -> Tensor:
        """The log-probabilities (num,) of paths at this step's tau, differentiable in the arch parameters."""

    def score(self, path: Sequence[int]) -> float:
        """The log of the loss on the whole arch split of a path with the present weights, forward-only; remembered."""

    def descend(self, loss: Tensor | Iterable[Tensor], *levels: Level) -> None:
        """Takes one optimizer step of each named parameter set on `loss`, or on a sum of losses. Computes no other gradients."""


class Bilevel(ABC):
    """Base class of bilevel methods. Each step trains the weight parameters and, after the warm-up, the arch parameters.

    A custom method computes a scalar loss and passes it to ``step.descend``. The loss comes from ``step.loss``, at the drawn op weights or
    at others, or the method computes it from ``step.batch``. :func:`nas.testing.check_bilevel` checks a custom method.
    """

    recomputes = True
    """Whether the method supports candidates that are recomputed in the backward pass (activation checkpointing)."""

    differentiates_weight_loss = False
    """Whether the gradient of the arch parameters passes through the loss on the train split."""

    weights_rest = False
    """Whether the weights are trained in the warm-up alone."""

    accumulates = False
    """Whether the method uses ``step.losses``, so that only one part of a batch needs memory at a time (gradient accumulation)."""

    @abstractmethod
    def step(self, step: Step) -> None:
        """Takes the step."""

    def check(self, weight_optimizer: Optimizer) -> None:  # noqa: B027  (most methods work with every optimizer)
        """Raises ValueError for an optimizer that the method does not support; called before a search."""


class FirstOrder(Bilevel):
    """Trains alpha on the arch split at the current weights, then trains the weights on the train split.

    Source: Liu et al. 2019, "DARTS: Differentiable Architecture Search", first-order approximation (xi = 0).
    """

    accumulates = True

    def step(self, step: Step) -> None:
        if step.arch_moves:
            step.descend(_penalized(step.losses("arch"), step.arch_penalty()), "arch")
        step.descend(step.losses("weight"), "weight")


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


class Unrolled(Bilevel):
    """Trains alpha on the arch loss *after* a virtual step of the weights. The step depends on alpha (second order).

    The virtual weights are w' = w - lr * direction, where SGD's direction includes momentum and weight decay. The gradient of
    L_arch(w'(alpha), alpha) is either exact, through the graph of the inner gradient, or uses a central finite difference for the second
    derivative. Virtual passes change neither weights nor batch-norm buffers.

    Args:
        exact: Differentiate through the virtual step; otherwise use the finite difference of DARTS, which needs less memory.
        radius: Norm of the finite-difference step in weight space, above 0.

    Source: Liu et al. 2019, "DARTS: Differentiable Architecture Search", equations 6 to 8.

    Deviation: DARTS omits Nesterov momentum. Here the virtual step equals the optimizer's own step without gradient clipping.
    """

    differentiates_weight_loss = True
    recomputes = False  # the recomputation would use the real weights, not the virtual ones

    def __init__(self, exact: bool = True, radius: float = 0.01) -> None:
        if not radius > 0:
            raise ValueError(f"Unrolled: radius must be above 0, got {radius}")
        self.exact = exact
        self.radius = radius

    def check(self, weight_optimizer: Optimizer) -> None:
        groups = weight_optimizer.param_groups
        if type(weight_optimizer) is not SGD or any(g["dampening"] != 0 or g["maximize"] for g in groups):
            raise ValueError(
                f"Unrolled needs weight_optimizer torch.optim.SGD without dampening and maximize: its virtual step is a step of SGD; "
                f"got {type(weight_optimizer).__name__}"
            )

    def step(self, step: Step) -> None:
        if step.arch_moves:
            loss = self._exact_loss(step) if self.exact else self._finite_difference_loss(step)
            step.descend(loss + step.arch_penalty(), "arch")
        step.descend(step.loss("weight"), "weight")

    def _exact_loss(self, step: Step) -> Tensor:
        weights = step.named_weights()
        grads = _gradients(step.virtual_loss("weight", weights), weights, create_graph=True)
        return step.virtual_loss("arch", virtual_weights(step.present_weight_optimizer, weights, grads))

    def _finite_difference_loss(self, step: Step) -> Tensor:
        """A scalar whose gradient in alpha is the second-order gradient; its value differs from the arch loss."""
        weights, alpha = step.named_weights(), list(step.arch_parameters())
        optimizer = step.present_weight_optimizer
        grads = _gradients(step.virtual_loss("weight", weights), weights)
        with torch.no_grad():
            virtual = virtual_weights(optimizer, weights, grads)
        loss = step.virtual_loss("arch", {name: w.requires_grad_() for name, w in virtual.items()})
        inner = _gradients(loss, virtual, retain_graph=True)
        # d(update)/d(gradient) is one number for each weight: lr, times 1 + momentum with Nesterov
        rates = [g["lr"] * (1 + g["momentum"] * g["nesterov"]) for g in _groups(optimizer, weights)]
        direction = [rate * v for rate, v in zip(rates, inner, strict=True)]
        norm = torch.stack([d.norm() for d in direction]).norm().clamp_min(1e-12)
        ends = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                moved = {
                    name: w + sign * self.radius / norm * d
                    for (name, w), d in zip(weights.items(), direction, strict=True)
                }
            ends.append(_gradients(step.virtual_loss("weight", moved), dict(enumerate(alpha))))
        for parameter, up, down in zip(alpha, *ends, strict=True):
            second = (up - down) * norm / (2 * self.radius)
            loss = loss - (second * parameter).sum()
        return loss


class ScoreFunction(Bilevel):
    """Trains the weights in the warm-up, and then alpha alone: by the score function of sampled paths that are scored forward-only.

    A step draws paths x_i from the distribution at the current tau. The score f of a path is the log of the loss of its network on the
    arch split, with inherited weights and recalibrated batch norms. The gradient of E[f] is estimated by the mean of
    (f_i - mean of the other f_j) times the gradient of log p(x_i): unbiased, without a backward pass through the network. An architecture
    is evaluated once, since the weights rest.

    Args:
        num_paths: Number of paths of a step, at least 2.
        refit_head: Refit the head for each architecture; the last layer must be linear.
        num_batches: Batches of each split to evaluate; null: all.

    Raises:
        ValueError: A number out of range.

    Source: Williams 1992, "Simple Statistical Gradient-Following Algorithms"; Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline
    for Free!" (leave-one-out).
    """

    accumulates = True
    weights_rest = True

    def __init__(self, num_paths: int = 5, refit_head: bool = False, num_batches: int | None = None) -> None:
        if num_paths < 2:
            raise ValueError(f"ScoreFunction: a leave-one-out baseline needs num_paths of at least 2, got {num_paths}")
        if num_batches is not None and num_batches < 1:
            raise ValueError(f"ScoreFunction: num_batches must be at least 1, got {num_batches}")
        self.num_paths = num_paths
        self.refit_head = refit_head
        self.num_batches = num_batches

    def step(self, step: Step) -> None:
        if not step.arch_moves:
            step.descend(step.losses("weight"), "weight")
            return
        paths = step.draw_paths(self.num_paths)
        scores = torch.tensor([step.score(path) for path in paths.tolist()], device=paths.device)
        step.descend(score_loss(scores, step.log_prob(paths)) + step.arch_penalty(), "arch")


def score_loss(scores: Tensor, log_prob: Tensor) -> Tensor:
    """A scalar whose gradient estimates that of the expected score, without bias for independent paths.

    Shape:
        - scores, log_prob: (P,), P at least 2
    """
    return (leave_one_out(scores).to(log_prob.dtype) * log_prob).mean()


def _penalized(losses: Iterable[Tensor], penalty: Tensor) -> Iterator[Tensor]:
    """The parts of a loss, with a penalty added to the first."""
    for i, loss in enumerate(losses):
        yield loss if i else loss + penalty


def virtual_weights(
    optimizer: Optimizer, weights: Mapping[str, nn.Parameter], grads: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The weights after a step of SGD, differentiable in the gradients. Momentum buffers do not change."""
    virtual = {}
    for (name, weight), group, grad in zip(weights.items(), _groups(optimizer, weights), grads, strict=True):
        direction = grad + group["weight_decay"] * weight.detach()
        if group["momentum"]:
            former = optimizer.state.get(weight, {}).get("momentum_buffer")
            buffer = direction if former is None else group["momentum"] * former + direction
            direction = direction + group["momentum"] * buffer if group["nesterov"] else buffer
        virtual[name] = weight - group["lr"] * direction
    return virtual


def _groups(optimizer: Optimizer, weights: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """The optimizer's parameter group of each weight."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return [groups[id(weight)] for weight in weights.values()]


def _gradients(
    loss: Tensor, inputs: Mapping[Any, Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> list[Tensor]:
    """The gradient with respect to each input; zeros for inputs that the loss does not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs.values()]
    grads = torch.autograd.grad(
        loss,
        list(inputs.values()),
        create_graph=create_graph,
        retain_graph=retain_graph or create_graph,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, inputs.values(), strict=True)]
