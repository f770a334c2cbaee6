"""Cuts of layers: which channels of each tensor an architecture keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nas.supernet.width import Width, mask_of, widths_of

KEY = "nas_cuts"  # the attribute of a layer that holds its cuts

Sizes = Mapping[str, Mapping[str, int]]
"""Attribute of a layer -> tensor -> the dimension of this size."""

_CONV: Sizes = {"in_channels": {"weight": 1}, "out_channels": {"weight": 0, "bias": 0}, "groups": {}}
_TRANSPOSED: Sizes = {"in_channels": {"weight": 0}, "out_channels": {"weight": 1, "bias": 0}}
_PER_CHANNEL = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), 0)
LAYERS: tuple[tuple[type[nn.Module], Sizes], ...] = (
    (nn.Linear, {"in_features": {"weight": 1}, "out_features": {"weight": 0, "bias": 0}}),
    *((kind, _CONV) for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    *((kind, _TRANSPOSED) for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
    (_NormBase, {"num_features": _PER_CHANNEL}),
    (nn.LayerNorm, {"normalized_shape": _PER_CHANNEL}),
    (nn.RMSNorm, {"normalized_shape": _PER_CHANNEL}),
    (nn.GroupNorm, {"num_groups": {}, "num_channels": _PER_CHANNEL}),
    (nn.Embedding, {"embedding_dim": {"weight": 1}}),
    (nn.PReLU, {"num_parameters": {"weight": 0}}),
)
"""Layers of torch that can be cut, and what their numbers count."""


class Axis:
    """The channels of one dimension of a tensor: each belongs to a unit of a group, or to none and is always kept.

    Attributes:
        groups: The widths of the groups, which count units.
        owners: (n,) the index of a channel's group; -1 for channels that are always kept.
        ranks: (n,) the rank of a channel's unit in its group. A width of m keeps the units of rank 0 to m - 1.
    """

    def __init__(self, groups: tuple[Width, ...], owners: Tensor, ranks: Tensor) -> None:
        """Stores the parts."""
        self.groups, self.owners, self.ranks = groups, owners, ranks
        starts = torch.tensor([0, *map(int, groups)]).cumsum(0)
        # the place of each channel among the units of all groups; the last place for channels that are always kept
        places = torch.where(owners < 0, starts[-1], starts[owners.clamp_min(0)] + ranks)
        self._places = {places.device: places}
        self._is_prefix = len(groups) == 1 and torch.equal(places, torch.arange(int(groups[0])))

    def __deepcopy__(self, memo: dict[int, Any]) -> Axis:
        return self

    def kept(self, choices: Mapping[str, Any]) -> Tensor:
        """The indices of the channels that an architecture keeps, in their order."""
        sizes = torch.tensor([group.size(choices[group.name]) for group in self.groups])
        return ((self.owners < 0) | (self.ranks < sizes[self.owners.clamp_min(0)])).nonzero()[:, 0]

    def equals(self, other: Axis) -> bool:
        """Whether another axis has the same channels."""
        return (
            [group.name for group in self.groups] == [group.name for group in other.groups]
            and torch.equal(self.owners, other.owners)
            and torch.equal(self.ranks, other.ranks)
        )

    def mask(self, like: Tensor) -> Tensor:
        """The share of each channel under the op weights of the present forward: 0 or 1 for one architecture.

        Shape:
            - result: (n,), or (B, n) if the op weights are per sample
        """
        parts = [mask_of(group) for group in self.groups]
        if self._is_prefix:
            return parts[0].to(like.dtype)
        every = torch.cat([*parts, torch.ones_like(parts[0][..., :1])], -1).to(like.dtype)
        if like.device not in self._places:
            self._places[like.device] = self._places[self.owners.device].to(like.device)
        return every[..., self._places[like.device]]


class Norm(NamedTuple):
    """A layer that normalizes over channels.

    Attributes:
        dim: The dimension of the channels in the input.
        is_centered: Whether it subtracts the mean (layer norm) or not (RMS norm).
    """

    dim: int
    is_centered: bool


class Cuts(NamedTuple):
    """How one layer is cut.

    Attributes:
        tensors: Name of a parameter or buffer -> dimension -> its channels.
        reads: The dimension of the channels in the layer's first argument, and the channels, if the layer mixes them; otherwise None.
        norm: The statistics to mend, if the layer normalizes over the channels that it reads.
        attributes: Name of a number of the layer -> the width that it counts, and by how much it falls with each dropped unit.
    """

    tensors: Mapping[str, Mapping[int, Axis]]
    reads: tuple[int, Axis] | None = None
    norm: Norm | None = None
    attributes: Mapping[str, tuple[Width, int]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Cuts:
        return self

    def groups(self) -> dict[str, Width]:
        """The widths of all groups, by name."""
        axes = [axis for dims in self.tensors.values() for axis in dims.values()] + (
            [self.reads[1]] if self.reads else []
        )
        widths = [group for axis in axes for group in axis.groups] + [width for width, _ in self.attributes.values()]
        return {width.name: width for width in widths}


def sizes_of(module: nn.Module) -> Sizes | None:
    """What the numbers of a layer count; None for a layer that is not known."""
    return next((sizes for kind, sizes in LAYERS if isinstance(module, kind)), None)


def cuts_of(module: nn.Module) -> Cuts | None:
    """The cuts of a layer; None if it has none."""
    return vars(module).get(KEY)


_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class SearchHook:
    """A hook of a search, which derived layers do not have."""


def without_search_hooks(hooks: dict[int, Any]) -> dict[int, Any]:
    """The hooks that a user registered."""
    return type(hooks)({key: hook for key, hook in hooks.items() if not isinstance(hook, SearchHook)})


def cut(
    module: nn.Module,
    cuts: Cuts,
    kept: Callable[[Axis], Tensor],
    size: Callable[[Width], int],
    copies: dict[Any, Any],
    form: nn.Module | None = None,
) -> nn.Module:
    """A plain, smaller copy of a layer, without the hooks of a search.

    Args:
        module: The layer.
        cuts: Its cuts.
        kept: The indices of the channels of an axis that are kept.
        size: The number of units of a group that are kept.
        copies: The memo of ``copy.deepcopy``. Layers that share a tensor still do, if they keep the same shape of it.
        form: The layer in another form, with other numbers and views of its tensors; None: as it is.
    """
    form = module if form is None else form
    small: Any = form.__new__(type(form))  # copy.copy refuses parametrized layers
    small.__dict__ = {
        key: copy.deepcopy(without_search_hooks(value) if key in _HOOKS else value, copies)
        for key, value in vars(form).items()
        if key not in (KEY, "_parameters", "_buffers")
    }
    for name in ("_parameters", "_buffers"):
        made: dict[str, Any] = {}
        for key, tensor in getattr(form, name).items():
            if tensor is None:
                made[key] = None
                continue
            part = tensor.detach()
            for dim, axis in cuts.tensors.get(key, {}).items():
                part = part.index_select(dim, kept(axis).to(part.device))
            whole = getattr(module, name)[key]
            memo = id(whole) if part.shape == whole.shape else (id(whole), part.shape)
            if memo not in copies:
                part = part.clone()
                copies[memo] = nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part
            made[key] = copies[memo]
        small.__dict__[name] = made
    for key, width in widths_of(form).items():
        _set_size(small, key, size(width))
    for key, (width, step) in cuts.attributes.items():
        setattr(small, key, getattr(small, key) - step * (int(width) - size(width)))
    if cuts_of(module) is not None:
        _resize(small, module)
    return small


def _set_size(layer: nn.Module, key: str, size: int) -> None:
    """Sets a number of a layer; a norm holds its shape in a tuple."""
    setattr(layer, key, (size,) if isinstance(getattr(layer, key), tuple) else size)


def _resize(small: Any, whole: Any) -> None:
    """Makes the numbers of a layer fit its tensors."""
    groups = 1
    if isinstance(small, _ConvNd) and whole.groups > 1:  # whole groups are kept, with all channels inside
        groups = small.groups = small.weight.shape[0] * whole.groups // whole.weight.shape[0]
    if isinstance(small, nn.GroupNorm) and small.weight is not None:
        small.num_groups = len(small.weight) * whole.num_groups // whole.num_channels
    for key, tensors in (sizes_of(small) or {}).items():
        for name, dim in tensors.items():
            if (tensor := getattr(small, name, None)) is not None:
                _set_size(small, key, tensor.shape[dim] * (groups if dim == 1 else 1))
                break
    if type(small).__name__ == "Conv1D":  # of transformers: a linear layer with a transposed weight
        small.nx, small.nf = small.weight.shape
    elif sizes_of(small) is None and not whole._modules:
        _resize_own(small, whole)


def _resize_own(small: Any, whole: Any) -> None:
    """Whole numbers of a layer of another library that equal the length of a cut dimension become the new length."""
    changed: dict[int, set[int]] = {}
    for key, tensor in {**whole._parameters, **whole._buffers}.items():
        for old, new in zip(tensor.shape, getattr(small, key).shape, strict=True) if tensor is not None else ():
            changed.setdefault(old, set()).add(new)
    for key, value in vars(whole).items():
        if type(value) is int and len(changed.get(value, ())) == 1:
            setattr(small, key, *changed[value])
