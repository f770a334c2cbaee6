"""Functions for networks inside a supernet's forward: samples of their own logits, and activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from nas.relaxations import Sampler
from nas.supernet.base import Context, active_context, present_context


def repeatable(context: Context | None) -> Callable[[], Context | None]:
    """A factory of copies of `context`. Each copy has its own generator and repeats the draws that `context` makes from now on."""
    generator = context.sampler.generator if context and context.sampler else None
    if context is None or context.sampler is None or generator is None:
        return lambda: context
    sampler, device, state = context.sampler, generator.device, generator.get_state()

    def repeated() -> Context:
        again = torch.Generator(device)
        again.set_state(state)
        return replace(context, sampler=sampler._replace(generator=again))

    return repeated


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Activation checkpointing for functions that contain choices.

    Like ``torch.utils.checkpoint.checkpoint(use_reentrant=False)``, but the recomputation in the backward pass uses the op weights and the
    :func:`sample` noise of its forward.

    Args:
        function: A module or function.
        *args: Passed to it.
        **kwargs: Passed to it.
    """
    context = present_context()
    repeat = repeatable(context)
    first = True

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal first
        here = context if first else repeat()
        first = False
        if here is not None:
            here = replace(here, fused=None)  # the recomputation would lack results that are shared outside
        with active_context(here):
            return function(*args, **kwargs)

    return torch_checkpoint(run, *args, use_reentrant=False, **kwargs)


def present_sampler() -> Sampler | None:
    """The relaxation, tau and generator of the enclosing supernet; None outside of one, or if no relaxation drew its op weights."""
    context = present_context()
    return None if context is None else context.sampler


def sample(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """A relaxed categorical sample of logits that the network computes itself (assignments, tokens, masks).

    It is drawn with the enclosing supernet's relaxation, tau and generator, so it anneals and resumes with the search.

    Args:
        logits: Unnormalized log-probabilities.
        mask: True for categories that exist.

    Shape:
        - logits, result: (..., K)

    Raises:
        RuntimeError: Called outside a supernet's forward, or in one whose op weights did not come from ``Supernet.sample``.
    """
    sampler = present_sampler()
    if sampler is None:
        raise RuntimeError(
            "nas.sample was called outside a supernet, or with op weights that no relaxation drew: "
            "use op_weights=supernet.sample(relaxation, tau, generator=...)"
        )
    relaxation, tau, generator = sampler
    return relaxation(logits, tau, mask=mask, generator=generator)
