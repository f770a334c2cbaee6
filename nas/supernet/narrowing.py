"""The cuts of layers that hold widths, and of those of converted networks; smaller copies of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from nas.supernet.cuts import LAYERS, Axis, Cuts, Norm, cut, cuts_of, sizes_of
from nas.supernet.masking import mask_reads
from nas.supernet.valued_layer import mix_values, variant
from nas.supernet.width import Width, widths_of


def cuts_by(module: nn.Module) -> Cuts | None:
    """The cuts of a layer, which it has from a conversion or by the widths that it holds; None if it has none.

    Raises:
        ValueError: The layer holds a width, and has weights that cannot be cut.
    """
    if (cuts := cuts_of(module)) is not None:
        return cuts
    widths = widths_of(module)
    return _width_cuts(module, widths) if widths else None


def _width_cuts(module: nn.Module, widths: Mapping[str, Width]) -> Cuts:
    """A width keeps the first channels."""
    kind = type(module).__name__
    known = sizes_of(module)
    own = [name for name, tensor in {**module._parameters, **module._buffers}.items() if tensor is not None]
    if known is None:
        if own:
            layers = ", ".join(base.__name__.lstrip("_") for base, _ in LAYERS)
            raise ValueError(f"{kind} has weights ({own[0]}) that nas.width cannot cut; it cuts weights of {layers}")
        return Cuts({})
    axes = {
        key: Axis((width,), torch.zeros(int(width), dtype=torch.int64), torch.arange(int(width)))
        for key, width in widths.items()
    }
    tensors: dict[str, dict[int, Axis]] = {}
    for key, axis in axes.items():
        if key not in known:
            raise ValueError(f"{kind}.{key} cannot be a width")
        for name, dim in known[key].items():
            if is_parametrized(module, name):
                raise ValueError(f"{kind}: {name} is parametrized, and nas.width cannot cut it")
            tensors.setdefault(name, {})[dim] = axis
    _check_groups(module, widths)
    if "groups" in widths:
        tensors["weight"].pop(1)  # a group reads as many channels in every size
    return Cuts(tensors, *_read(module, axes))


def _read(module: nn.Module, axes: Mapping[str, Axis]) -> tuple[tuple[int, Axis] | None, Norm | None]:
    """The channels that a layer mixes, with their dimension; and what it normalizes over them."""
    for key, dim in (("in_features", -1), ("in_channels", 1), ("normalized_shape", -1)):
        if key in axes:
            place = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else dim  # an input may have no batch
            norm = Norm(dim, isinstance(module, nn.LayerNorm)) if key == "normalized_shape" else None
            return (place, axes[key]), norm
    return None, None


def _check_groups(module: Any, widths: Mapping[str, Width]) -> None:
    """Groups of a convolution or a norm must have as many channels in every size."""
    kind = type(module).__name__
    if isinstance(module, _ConvNd):
        if "groups" in widths and not {"in_channels", "out_channels"} <= set(widths):
            raise ValueError(f"{kind}: if groups is a width, in_channels and out_channels must be widths too")
        if {"in_channels", "out_channels"} & set(widths) and module.groups != 1 and "groups" not in widths:
            raise ValueError(
                f"{kind}: a width in a convolution of {module.groups} groups; groups must be 1 or the width"
            )
    if isinstance(module, nn.GroupNorm):
        if set(widths) != {"num_groups", "num_channels"}:
            raise ValueError(
                f"{kind}: num_groups and num_channels must both be widths: nn.GroupNorm(w // 4, w) for groups of 4 channels"
            )
        widths["num_channels"] // widths["num_groups"]  # raises ValueError if it differs


def narrowed(module: nn.Module, choices: Mapping[str, Any], copies: dict[Any, Any]) -> nn.Module:
    """A copy of a module with plain numbers for its own widths and values.

    Weights are cut to the channels that are kept, and kernels to their center. `copies` is the memo of ``copy.deepcopy``; it has the
    copies of inner modules already. Raises ValueError for layers that cannot be cut.
    """
    cuts = cuts_by(module) or Cuts({})

    def size(width: Width) -> int:
        return width.size(choices[width.name])

    return cut(module, cuts, lambda axis: axis.kept(choices), size, copies, variant(module, choices))


def prepare_layers(network: nn.Module) -> None:
    """Prepares the layers that hold widths or values, or have cuts, for a search; raises ValueError for layers that cannot hold them."""
    mix_values(network)
    for module in network.modules():
        widths = widths_of(module)
        for key, value in vars(module).items():
            if key not in widths and isinstance(value, (tuple, list)) and any(isinstance(v, Width) for v in value):
                raise ValueError(
                    f"{type(module).__name__} cannot be cut to a width: nas.width does not support this layer"
                )
        if (cuts := cuts_by(module)) is not None:
            mask_reads(module, cuts)
