"""Runs a network with choices inside code that calls the network itself, and not its supernet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from nas.relaxations import OpWeights
from nas.supernet.base import active_context
from nas.supernet.fused.folding import count_batches
from nas.supernet.supernet import Supernet


@contextmanager
def running(supernet: Supernet, op_weights: OpWeights) -> Iterator[None]:
    """Inside the block, every call of the supernet's network, or of a part of it, runs with `op_weights`.

    Calls of the whole network take the fast path. Its numbers are made anew for each call, so that each call has a graph of its own.

    Raises:
        ValueError: The network is compiled: a compiled graph would keep the op weights of its first call.
    """
    network = supernet.network
    if any(module._compiled_call_impl is not None for module in network.modules()):
        raise ValueError(
            "the network is compiled; compile it after the search, or search with nas.SearchModule(compile=...)"
        )
    opened: list[Any] = []

    def enter(module: nn.Module, args: Any) -> None:
        context = supernet.context(op_weights)
        block = active_context(context)
        block.__enter__()
        opened.append((block, context))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if opened:
            block, context = opened.pop()
            block.__exit__(None, None, None)
            if context.fused is not None:
                count_batches(context.fused.tracked)

    handles = (
        network.register_forward_pre_hook(enter, prepend=True),
        network.register_forward_hook(leave, always_call=True),
    )
    try:
        with active_context(supernet.context(op_weights, is_fast=False)):
            yield
    finally:
        for handle in handles:
            handle.remove()
