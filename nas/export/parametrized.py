"""Replaces computed weights by plain ones: parametrizations, the older norms with hooks, and pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from nas.export.subject import check_same
from nas.supernet.modules import copied

TOLERANCE = 1e-6
"""Largest difference of an output, relative to the largest output."""

Places = Sequence[tuple[str, str]]

_BY_HOOK: Mapping[type, Callable[[nn.Module, str], Any]] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
    prune.BasePruningMethod: prune.remove,
}


def fold_parametrizations(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Places]:
    """A copy with plain weights (the network itself if it has no other), and the places (module, tensor) of computed weights.

    Raises:
        ValueError: The outputs for `inputs` differ by more than the tolerance.
    """
    # inner modules first: a parametrization may be parametrized itself
    modules = reversed(list(network.named_modules()))
    places = [(path, name) for path, module in modules for name in _computed(module)]
    if not places:
        return network, ()
    folded = copied(network)
    strip_parametrizations(folded, places)
    check_same(folded, network, inputs, TOLERANCE, "making parametrized weights plain", floor=0.0)
    return folded, places


def strip_parametrizations(network: nn.Module, places: Places) -> None:
    """Gives a new network the structure of a folded one: plain tensors at these places."""
    for path, name in places:
        module = network.get_submodule(path)
        if name in _computed(module):
            _make_plain(module, name)


def _computed(module: nn.Module) -> list[str]:
    """Names of the computed tensors of a module."""
    return [*map(str, _lists(module)), *(name for name, _ in _removers(module))]


def _lists(module: nn.Module) -> Mapping[str, Any]:
    return dict(module.parametrizations.items()) if parametrize.is_parametrized(module) else {}  # type: ignore[operator, union-attr]


def _removers(module: nn.Module) -> Iterator[tuple[str, Callable[[nn.Module, str], Any]]]:
    """Tensors that hooks compute, each with the function that removes the hook."""
    for hook in module._forward_pre_hooks.values():
        for kind, remover in _BY_HOOK.items():
            if isinstance(hook, kind):
                yield str(getattr(hook, "name", None) or getattr(hook, "_tensor_name", "")), remover


def _make_plain(module: nn.Module, name: str) -> None:
    """Replaces a computed tensor by a plain one: contiguous, like a tensor from a file."""
    listed = name in _lists(module)
    holder: Any = _lists(module)[name] if listed else module
    wanted = list(holder._parameters) if listed else [f"{name}_{ending}" for ending in ("orig", "g", "v")]
    sources = {key: holder._parameters[key] for key in wanted if holder._parameters.get(key) is not None}
    for key, source in sources.items():  # removers write into the sources, and modules may share them
        setattr(holder, key, nn.Parameter(source.detach().clone(), source.requires_grad))
    if listed:
        _own_class(module)
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    else:
        dict(_removers(module))[name](module, name)
    tensor = getattr(module, name).detach().clone(memory_format=torch.contiguous_format)
    trains = any(source.requires_grad for source in sources.values())
    setattr(module, name, nn.Parameter(tensor, trains) if sources else tensor)  # recurrent layers observe assignments


def _own_class(module: nn.Module) -> None:
    """Gives a parametrized module its own class: copies share a class, and torch removes the property of the tensor from it."""
    kind = type(module)
    content = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, content)
