"""Functions that layers share: draws inside and outside of a supernet, and a check of input."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.relaxations import Softmax
from nas.relaxations.base import Tau
from nas.supernet.sampling import present_sampler, sample


def sample_or_softmax(logits: Tensor, tau: Tau, mask: Tensor | None = None) -> Tensor:
    """:func:`nas.sample` inside a supernet, at its tau; ``softmax(logits / tau)`` elsewhere.

    Args:
        logits: Unnormalized log-probabilities.
        tau: Temperature outside of a supernet, above 0.
        mask: True for categories that exist.

    Shape:
        - logits, result: (..., K)
    """
    return Softmax()(logits, tau, mask=mask) if present_sampler() is None else sample(logits, mask)


def check(is_right: Tensor, message: str) -> None:
    """Raises ValueError if a tensor on the CPU is not True everywhere. A GPU is not checked, to avoid a synchronization."""
    if is_right.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(is_right.all()):
        raise ValueError(message)
