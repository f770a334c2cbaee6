"""Alpha trained through a virtual step of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from nas.bilevel.base import Bilevel, Step


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
