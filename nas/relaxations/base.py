"""The base class of relaxations, and the functions that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

Tau = Tensor | float


class Sampler(NamedTuple):
    """The relaxation, tau and generator of the enclosing supernet, for :func:`nas.sample`."""

    relaxation: Relaxation
    tau: Tau
    generator: torch.Generator | None


class OpWeights(NamedTuple):
    """A relaxed sample of alpha.

    Attributes:
        weights: (E, K), or (E, B, K) per sample; rows on the simplex, padded columns exactly 0.
        active: (E, n) int64 on the CPU: the candidates to run. None: all of them.
        sampler: Sampler for :func:`nas.sample` during the forward; None if the network draws no samples itself.
        unit_weights: Whether one candidate of each choice is active with a weight of exactly 1 and no gradient, so that its output is used
            unchanged.
        logits: Alpha at the draw, (E, K), for relaxations that act after an arch step; None for others.
    """

    weights: Tensor
    active: Tensor | None = None
    sampler: Sampler | None = None
    unit_weights: bool = False
    logits: Tensor | None = None


class Relaxation(nn.Module, ABC):
    """A map (logits, tau, noise) -> op weights; works on logits of any shape (..., K).

    Attributes:
        num_active: Number of candidates of a choice that run; None: all of them.
    """

    num_active: int | None = None

    @abstractmethod
    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws op weights.

        Args:
            logits: Unnormalized log-probabilities.
            tau: Temperature, above 0.
            mask: True for candidates that exist; all other weights are exactly 0.
            generator: Source of the noise, on the device of `logits`; None: the global generator.

        Shape:
            - logits: (..., K)
            - mask: broadcastable to (..., K)
            - result: (..., K), rows on the simplex, float32 (float64 for float64 logits)
        """

    def probabilities(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Probabilities for discretization, dashboards, entropy and costs: by default the softmax of the logits.

        Shape:
            - logits, result: (..., K)
        """
        return torch.softmax(masked_logits(logits, mask), dim=-1)

    def after_arch_step(self, alpha: Tensor, sample: OpWeights) -> None:
        """Called after each step of the arch optimizer with alpha (E, K) and the sample of that step; does nothing by default."""

    @property
    def acts_after_arch_step(self) -> bool:
        """Whether :meth:`after_arch_step` does anything."""
        return type(self).after_arch_step is not Relaxation.after_arch_step


LOWEST = -1e20
"""The logit of a masked candidate. Its weight and all gradients through it are exactly 0; minus infinity would produce NaN."""


def masked_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits in at least float32; `LOWEST` replaces masked logits and minus infinity.

    Raises:
        ValueError: A logit is NaN, or a row has no candidate. On a GPU nothing is checked, to avoid a synchronization.
    """
    logits = at_least_float32(logits).clamp_min(LOWEST)  # keeps NaN
    if mask is not None:
        logits = logits.masked_fill(~mask, LOWEST)
    if logits.device.type == "cpu" and logits.numel() and not torch.compiler.is_compiling():
        largest = logits.detach().amax(-1)
        if bool(torch.isnan(largest).any()):
            raise ValueError("relaxation: the logits hold NaN")
        if bool((largest <= LOWEST).any()):
            raise ValueError("relaxation: the mask removes every candidate of at least one choice")
    return logits


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor; 16-bit types become float32."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def tempered_softmax(logits: Tensor, tau: Tau) -> Tensor:
    """``softmax(logits / tau)`` of masked logits; shapes as in :class:`Relaxation`."""
    return torch.softmax(logits / checked_tau(tau), dim=-1)


def active_candidates(relaxation: Relaxation, weights: Tensor) -> Tensor | None:
    """The candidates that run, in ascending order; None: all of them.

    Shape:
        - weights: (..., K), as drawn by `relaxation`
        - result: (..., num_active) int64
    """
    if relaxation.num_active is None:
        return None
    return weights.detach().topk(relaxation.num_active, dim=-1).indices.sort(dim=-1).values


def check_per_sample(relaxation: Relaxation) -> None:
    """Raises ValueError if only sampled candidates run: with noise per sample, these would differ within the batch."""
    if relaxation.num_active is not None:
        raise ValueError(
            f"noise per sample needs every candidate to run; {type(relaxation).__name__} runs {relaxation.num_active} of each choice"
        )


def exponential_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard exponential noise of the shape and dtype of `like`, at least the smallest normal number, so that its logarithm is finite."""
    noise = torch.empty_like(like, requires_grad=False, memory_format=torch.contiguous_format)
    return noise.exponential_(generator=generator).clamp_min_(torch.finfo(noise.dtype).tiny)


def gumbel_noise(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise of the shape and dtype of `logits`: ``-log(E)`` of a standard exponential E; at most 88 in float32."""
    return -exponential_noise(logits, generator).log_()


def gumbel_max(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """An exact categorical sample: the index of the largest ``logits + Gumbel noise``.

    Source: Maddison et al. 2014, "A* Sampling".

    Shape:
        - logits: (..., K)
        - result: (..., 1) int64
    """
    return (logits.detach() + gumbel_noise(logits, generator)).argmax(-1, keepdim=True)


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """One-hot rows of the shape and dtype of `like`.

    Shape:
        - index: (..., 1) int64
        - like, result: (..., K)
    """
    return torch.zeros_like(like, requires_grad=False).scatter(-1, index, 1.0)


def replace_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """Exactly `value` in the forward pass, and the gradient of `surrogate` in the backward pass.

    ``surrogate - surrogate.detach()`` is exactly 0, so the addition changes no bit.
    """
    return value + (surrogate - surrogate.detach())


def gumbel_softmax(logits: Tensor, tau: Tau, mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """``softmax((logits + Gumbel noise) / tau)``, masked; shapes as in :class:`Relaxation`."""
    logits = masked_logits(logits, mask)
    return tempered_softmax(logits + gumbel_noise(logits, generator), tau)


def straight_through(soft: Tensor) -> Tensor:
    """Exactly one-hot in the forward pass (argmax of `soft` along the last axis), with the gradient of `soft` in the backward pass.

    Source: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons".
    """
    return replace_gradient(one_hot(soft.argmax(-1, keepdim=True), soft), soft)


def checked_tau(tau: Tau) -> Tau:
    """Returns `tau`; raises ValueError unless it is above 0. Tensors on a GPU are not checked, to avoid a synchronization."""
    value = tau.detach() if isinstance(tau, Tensor) else tau
    on_cpu = not isinstance(value, Tensor) or value.device.type == "cpu"
    if on_cpu and not torch.compiler.is_compiling() and not float(value) > 0:
        raise ValueError(f"relaxation: tau must be above 0, got {float(value)}")
    return tau
