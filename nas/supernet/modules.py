"""Copies of modules, even while they hold tensors of a backward graph, and a context manager for eval mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=nn.Module)


def check_network(network: Any) -> None:
    """Raises ValueError for another object than a module, and for lazy modules: optimizers and copies need their parameters now."""
    if not isinstance(network, nn.Module):
        raise ValueError(f"a network must be an nn.Module, got {type(network).__name__}")
    for name, module in network.named_modules():
        if any(map(is_lazy, module.parameters(recurse=False))):
            raise ValueError(
                f"{name or 'the network'} is a {type(module).__name__} whose sizes are unknown; give it its sizes"
            )


def copied(module: Module, copies: dict[int, Any] | None = None) -> Module:
    """``copy.deepcopy`` for modules that may keep results of their last forward: an attention map, or a weight that a hook computes.

    The results are copied without their graph. `copies` is the memo of ``copy.deepcopy``; whoever passes it has put :func:`cut_results` of
    the whole network into it.
    """
    return copy.deepcopy(module, cut_results(module) if copies is None else copies)


def cut_results(module: nn.Module) -> dict[int, Any]:
    """Id -> detached copy, for tensors with a graph that modules hold besides parameters and buffers."""
    return {
        id(leaf): leaf.detach().clone()
        for inner in module.modules()
        for key, value in vars(inner).items()
        if key not in ("_parameters", "_buffers", "_modules") and not _is_plain(value)
        for leaf in tree_leaves(value)
        if isinstance(leaf, Tensor) and leaf.grad_fn is not None
    }


def _is_plain(value: Any) -> bool:
    """Whether a value surely holds no tensor: most attributes of a module, of which :func:`cut_results` sees hundreds."""
    return (
        value is None
        or isinstance(value, (bool, int, float, str))
        or (isinstance(value, (dict, list, tuple)) and not value)
    )


@contextmanager
def noting_calls(modules: Iterable[nn.Module], note: Callable[..., None]) -> Iterator[None]:
    """Calls ``note(module, args, kwargs, output)`` after each call of some modules inside the block."""
    handles = [module.register_forward_hook(note, with_kwargs=True) for module in dict.fromkeys(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode; restores the mode of each submodule at the end."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
