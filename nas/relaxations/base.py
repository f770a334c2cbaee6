"""What every relaxation is, and the functions that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from nas.mixed_op import OpWeights

Tau = Tensor | float


class Relaxation(nn.Module, ABC):
    """A map (logits, tau, noise) -> op weights; works on logits of any shape (..., K).

    Attributes:
        num_active: How many candidates of a choice run; None means all of them.
    """

    num_active: int | None = None

    @abstractmethod
    def forward(
        self,
        logits: Tensor,
        tau: Tau,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws op weights.

        Args:
            logits: Unnormalised log-probabilities.
            tau: Temperature, above 0.
            mask: True where a candidate exists; elsewhere the weight is exactly 0.
            generator: Source of the noise, on the device of `logits`; None means the global one.

        Shape:
            - logits: (..., K)
            - mask: broadcastable to (..., K)
            - result: (..., K), rows on the simplex, float32 (float64 for float64 logits)
        """

    def probabilities(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """What discretisation, dashboards, entropy and costs use: softmax of the logits unless overridden.

        Shape:
            - logits, result: (..., K)
        """
        return torch.softmax(masked_logits(logits, mask), dim=-1)

    def after_arch_step(self, alpha: Tensor, sample: OpWeights) -> None:
        """Called after each step of the arch optimizer, with alpha (E, K) and the sample it was trained on; nothing by default."""


def masked_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits in at least float32, minus infinity where `mask` is False.

    Raises:
        ValueError: A row has no candidate left (checked where the mask is on the CPU; on a GPU it would cost a synchronisation).
    """
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    if mask is None:
        return logits
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(mask.any(-1).all()):
        raise ValueError("relaxation: the mask removes every candidate of at least one choice")
    return logits.masked_fill(~mask, -torch.inf)


def gumbel_noise(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise, shape and dtype of `logits`; finite by construction, so never drawn twice.

    ``-log(E)`` of a standard exponential E; E is kept at or above the smallest normal number, which bounds the noise by 88 (float32).
    """
    exponential = torch.empty_like(logits, requires_grad=False).exponential_(generator=generator)
    return -exponential.clamp_min_(torch.finfo(exponential.dtype).tiny).log_()


def gumbel_softmax(logits: Tensor, tau: Tau, mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """``softmax((logits + Gumbel noise) / tau)``, masked; shapes as in :class:`Relaxation`."""
    logits = masked_logits(logits, mask)
    noisy = logits + gumbel_noise(logits, generator)
    return torch.softmax(noisy / checked_tau(tau), dim=-1)


def straight_through(soft: Tensor) -> Tensor:
    """Exactly one-hot forward (argmax of `soft` along the last axis), gradient of `soft` backward.

    ``soft - soft.detach()`` is exactly 0, so adding it to the one-hot rows changes no bit of them.

    Source: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons".
    """
    index = soft.argmax(-1, keepdim=True)
    hard = torch.zeros_like(soft, requires_grad=False).scatter(-1, index, 1.0)
    return hard + (soft - soft.detach())


def checked_tau(tau: Tau) -> Tau:
    """Returns `tau`, refusing what is not above 0 (not checked for tensors on a GPU, which would cost a synchronisation)."""
    value = tau.detach() if isinstance(tau, Tensor) else tau
    on_cpu = not isinstance(value, Tensor) or value.device.type == "cpu"
    if on_cpu and not torch.compiler.is_compiling() and not float(value) > 0:
        raise ValueError(f"relaxation: tau must be above 0, got {float(value)}")
    return tau
