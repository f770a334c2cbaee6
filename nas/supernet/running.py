"""Runs a network with choices inside code that calls the network itself, and not its supernet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

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
    _refuse_compiled(supernet.network)
    handles = around_calls(supernet.network, lambda: _one_call(supernet, op_weights))
    try:
        with active_context(supernet.context(op_weights, is_fast=False)):
            yield
    finally:
        for handle in handles:
            handle.remove()


def one_call(supernet: Supernet, op_weights: OpWeights) -> AbstractContextManager[None]:
    """A block for one call of the whole network with `op_weights`. A hook may enter it: the hooks of the network stay the same.

    Raises:
        ValueError: As :func:`running`.
    """
    _refuse_compiled(supernet.network)
    return _one_call(supernet, op_weights)


def without_hooks(network: nn.Module) -> nn.Module:
    """A copied network, without what :func:`around_calls` left in the original, which does nothing in a copy."""
    for hooks in (network._forward_pre_hooks, network._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, _Hook)]:
            del hooks[key]
            network._forward_hooks_always_called.pop(key, None)
    return network


def around_calls(network: nn.Module, block: Callable[[], AbstractContextManager[Any]]) -> list[RemovableHandle]:
    """Enters a new block before every call of the network, and leaves it afterwards, also after an error. Copies of the network do not."""
    around = _Around(block)
    return [
        network.register_forward_pre_hook(_Enter(around), prepend=True),
        network.register_forward_hook(_Leave(around), always_call=True),
    ]


class _Around:
    """Blocks that calls of a network have entered."""

    def __init__(self, block: Callable[[], AbstractContextManager[Any]]) -> None:
        self.block = block
        self.opened: list[AbstractContextManager[Any]] = []


class _Hook:
    """A hook that does nothing in a copy, so that networks can be copied and pickled during a search."""

    def __init__(self, around: _Around | None = None) -> None:
        self.around = around

    def __reduce__(self) -> Any:
        return type(self), ()


class _Enter(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.around is not None:
            entered = self.around.block()
            entered.__enter__()
            self.around.opened.append(entered)


class _Leave(_Hook):
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.around is not None and self.around.opened:
            self.around.opened.pop().__exit__(None, None, None)


@contextmanager
def _one_call(supernet: Supernet, op_weights: OpWeights) -> Iterator[None]:
    context = supernet.context(op_weights)
    with active_context(context):
        yield
    if context.fused is not None:
        count_batches(context.fused.tracked)


def _refuse_compiled(network: nn.Module) -> None:
    if any(module._compiled_call_impl is not None for module in network.modules()):
        raise ValueError(
            "the network is compiled; compile it after the search, or search with nas.SearchModule(compile=...)"
        )
