"""The proof of a group: the network with masks equals the network with smaller layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from nas.io.rng import untouched_rng
from nas.supernet.supernet import Supernet

TOLERANCE = 1e-5  # of the largest output; float32 sums in another order


def perturbed(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    """A copy with other biases and norms. In a fresh network they are 0 and 1, and hide what they would do to dropped channels.

    Batch norms get the statistics of the example, because activations of a deep fresh network vanish otherwise.
    """
    model = copy.deepcopy(model)
    _fit_batch_norms(model, args, kwargs)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() == 1 and tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=source).to(tensor)
                tensor.mul_(1 + 0.1 * noise) if "var" in name else tensor.add_(0.1 * noise)
    return model


def _fit_batch_norms(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        with torch.no_grad(), untouched_rng():
            model(*args, **kwargs)
    except ValueError:
        pass  # one value for each channel has no variance: the statistics before are kept
    for norm, momentum in zip(norms, before, strict=True):
        norm.eval()
        norm.momentum = momentum


@torch.no_grad()
def difference(
    supernet: Supernet, choices: Mapping[str, str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[float, str]:
    """The largest difference between the masked and the derived network, relative to the largest output, and an error of the latter."""
    try:
        small = _tensors(supernet.derive(choices)(*args, **kwargs))
    except Exception as error:
        return float("inf"), str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    masked = _tensors(supernet(*args, op_weights=supernet.one_hot(choices), **kwargs))
    if [t.shape for t in small] != [t.shape for t in masked]:
        return float("inf"), "its outputs have another shape"
    largest = max((float(t.abs().max()) for t in masked if t.numel()), default=0.0)
    found = max((float((a - b).abs().max()) for a, b in zip(small, masked, strict=True) if a.numel()), default=0.0)
    return (found / largest if largest else found), ""


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
