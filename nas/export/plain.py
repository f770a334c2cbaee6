"""Functions that replace functions of the framework in exported files; they compute the same in a network without choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint


def sum_outputs(modules: Sequence[nn.Module], inputs: Sequence[Tensor]) -> Tensor:
    """The sum of the outputs of modules, each with its own input."""
    outputs = [module(x) for module, x in zip(modules, inputs, strict=True)]
    total: Tensor = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Activation checkpointing."""
    return torch_checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)


def stochastic_depth(x: Tensor, p: float, mode: str, training: bool = True) -> Tensor:
    """Zeros whole samples (mode "row"), or the whole batch, with probability p."""
    if not training or p == 0.0:
        return x
    size = [x.shape[0] if mode == "row" else 1] + [1] * (x.ndim - 1)
    noise = torch.empty(size, dtype=x.dtype, device=x.device).bernoulli_(1.0 - p)
    if p < 1.0:
        noise.div_(1.0 - p)
    return x * noise
