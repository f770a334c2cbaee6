"""Exact gradients of arch parameters, and draws of an estimator's gradient, to measure its bias and variance."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from nas.relaxations import Relaxation, Softmax
from nas.relaxations.base import active_candidates, gumbel_max, one_hot

Objective = Callable[[Tensor], Tensor]


def exact_gradient(objective: Objective, logits: Tensor, relaxation: Relaxation | None = None) -> Tensor:
    """Gradient of the expected objective over one-hot samples, by enumeration of all K^E of them.

    Args:
        objective: (N, E, K) op weights -> (N,) values.
        logits: All K^E assignments are evaluated; keep E and K small.
        relaxation: Gives the probabilities of the samples; None: softmax.

    Shape:
        - logits, result: (E, K)
    """
    num_choices, num_candidates = logits.shape
    logits = logits.detach().requires_grad_()
    index = torch.tensor(list(itertools.product(range(num_candidates), repeat=num_choices)))  # (K^E, E)
    weights = torch.nn.functional.one_hot(index, num_candidates).to(logits.dtype)
    rows = (relaxation or Softmax()).probabilities(logits)
    p = rows.expand(len(index), -1, -1).gather(-1, index[..., None]).squeeze(-1).prod(-1)
    (gradient,) = torch.autograd.grad((p * objective(weights).detach()).sum(), logits)
    return gradient


def gradient_draws(
    relaxation: Relaxation,
    objective: Objective,
    logits: Tensor,
    tau: float,
    num_draws: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent draws of the gradient that `relaxation` gives to the logits; candidates that do not run contribute nothing.

    Args:
        relaxation: The estimator.
        objective: (N, E, K) op weights -> (N,) values.
        logits: The point at which the gradient is taken.
        tau: Temperature.
        num_draws: Number of draws.
        generator: Source of the noise.

    Shape:
        - logits: (E, K)
        - result: (num_draws, E, K)
    """
    copies = logits.detach().expand(num_draws, *logits.shape).clone().requires_grad_()
    weights = relaxation(copies, tau, generator=generator)
    active = active_candidates(relaxation, weights)
    if active is not None:
        weights = weights * torch.zeros_like(weights).scatter(-1, active, 1.0)
    (gradients,) = torch.autograd.grad(objective(weights).sum(), copies)
    return gradients


def leave_one_out(scores: Tensor) -> Tensor:
    """Each score minus the mean of the others, along the last axis, which has at least two.

    Source: Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!".
    """
    num = scores.shape[-1]
    return (scores - scores.mean(-1, keepdim=True)) * (num / (num - 1))


def leave_one_out_draws(
    objective: Objective, logits: Tensor, num_paths: int, num_draws: int, generator: torch.Generator | None = None
) -> Tensor:
    """Independent draws of the leave-one-out score-function gradient, each from `num_paths` one-hot samples.

    Shape:
        - logits: (E, K)
        - result: (num_draws, E, K)
    """
    copies = logits.detach().expand(num_draws * num_paths, *logits.shape)
    paths = one_hot(gumbel_max(copies, generator), copies)
    values = objective(paths).view(num_draws, num_paths)
    advantages = leave_one_out(values)
    scores = (paths - torch.softmax(copies, -1)).view(num_draws, num_paths, *logits.shape)
    return torch.einsum("np,npek->nek", advantages.to(scores.dtype), scores) / num_paths


def mixture(
    loss: Callable[[Tensor], Tensor], num_choices: int, num_candidates: int, seed: int, dim: int = 4
) -> Objective:
    """A loss of the sum of op-weighted random vectors, one vector for each candidate: a minimal model of a supernet.

    Args:
        loss: (N, dim) outputs -> (N,) values.
        num_choices: E.
        num_candidates: K.
        seed: Seed of the vectors and of the target that is subtracted from the output.
        dim: Length of the vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(num_choices, num_candidates, dim, dtype=torch.float64, generator=generator)
    target = torch.randn(dim, dtype=torch.float64, generator=generator)
    return lambda weights: loss(torch.einsum("nek,ekd->nd", weights.double(), vectors) - target)


def quadratic(num_choices: int, num_candidates: int, seed: int = 0) -> Objective:
    """A mixture under a squared loss."""
    return mixture(lambda y: y.square().sum(-1), num_choices, num_candidates, seed)
