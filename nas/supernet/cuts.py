"""Cuts of the layers of a converted network: which channels each tensor keeps, masks of the others, norms over the kept ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nas.supernet.base import context_of
from nas.supernet.width import Width, steps

KEY = "nas_cuts"  # the attribute of a layer that holds its cuts
KEYWORD = "its input is a keyword argument"


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
        starts = torch.tensor([0, *[int(group) for group in groups]]).cumsum(0)
        self._places = torch.where(owners < 0, starts[-1], starts[owners.clamp_min(0)] + ranks)
        self._on_device = {self._places.device: self._places}

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
        parts = []
        for group in self.groups:
            context = context_of(group.name)
            weights = context.op_weights[context.rows[group.name]][..., : len(group.labels)]
            parts.append(weights @ steps(group.sizes, weights.device, weights.dtype))
        every = torch.cat([*parts, torch.ones_like(parts[0][..., :1])], -1).to(like.dtype)
        if like.device not in self._on_device:
            self._on_device[like.device] = self._places.to(like.device)
        return every[..., self._on_device[like.device]]


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


def cuts_of(module: nn.Module) -> Cuts | None:
    """The cuts of a layer; None if it has none."""
    return vars(module).get(KEY)


def cut(
    module: nn.Module,
    cuts: Cuts,
    kept: Callable[[Axis], Tensor],
    size: Callable[[Width], int],
    copies: dict[int, Any],
) -> nn.Module:
    """A plain, smaller copy of a layer.

    Args:
        module: The layer.
        cuts: Its cuts.
        kept: The indices of the channels of an axis that are kept.
        size: The number of units of a group that are kept.
        copies: The memo of ``copy.deepcopy``.
    """
    small = copy.copy(module)
    hooks = {key: hook for key, hook in module._forward_pre_hooks.items() if not isinstance(hook, _Masks)}
    after = {key: hook for key, hook in module._forward_hooks.items() if not isinstance(hook, _Masks)}
    small.__dict__ = {
        key: value if key in ("_parameters", "_buffers") else copy.deepcopy(value, copies)
        for key, value in vars(module).items()
        if key not in (KEY, "_forward_pre_hooks", "_forward_hooks")
    }
    small._forward_pre_hooks = type(module._forward_pre_hooks)(copy.deepcopy(hooks, copies))
    small._forward_hooks = type(module._forward_hooks)(copy.deepcopy(after, copies))
    for name in ("_parameters", "_buffers"):
        made: dict[str, Any] = {}
        for key, tensor in getattr(module, name).items():
            if tensor is None:
                made[key] = None
                continue
            if id(tensor) in copies:  # tied layers keep one parameter
                made[key] = copies[id(tensor)]
                continue
            part = tensor.detach()
            for dim, axis in cuts.tensors.get(key, {}).items():
                part = part.index_select(dim, kept(axis).to(part.device))
            part = part.clone()
            made[key] = nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part
            copies[id(tensor)] = made[key]
        setattr(small, name, made)
    for key, (width, step) in cuts.attributes.items():
        setattr(small, key, getattr(small, key) - step * (int(width) - size(width)))
    _resize(small, module)
    return small


def _resize(small: Any, whole: Any) -> None:
    """Makes the numbers of a layer of ``torch.nn`` fit its tensors."""
    if isinstance(small, nn.Linear):
        small.out_features, small.in_features = small.weight.shape
    elif isinstance(small, _ConvNd):
        a, b = (1, 0) if small.transposed else (0, 1)
        if whole.groups > 1:  # whole groups are kept: their number is that of the channels that are not inside a group
            small.groups = small.weight.shape[0] * whole.groups // whole.weight.shape[0]
        sizes = {a: small.weight.shape[a], b: small.weight.shape[b]}
        sizes[1] *= small.groups
        small.out_channels, small.in_channels = sizes[a], sizes[b]
    elif isinstance(small, _NormBase):
        known = small.weight if small.weight is not None else small.running_mean
        small.num_features = len(known)
    elif isinstance(small, (nn.LayerNorm, nn.RMSNorm)) and small.weight is not None:
        small.normalized_shape = tuple(small.weight.shape)
    elif isinstance(small, nn.GroupNorm) and small.weight is not None:
        small.num_groups = len(small.weight) * whole.num_groups // whole.num_channels
        small.num_channels = len(small.weight)
    elif isinstance(small, nn.Embedding):
        small.embedding_dim = small.weight.shape[1]
    elif isinstance(small, nn.PReLU):
        small.num_parameters = len(small.weight)
    elif type(small).__name__ == "Conv1D":  # of transformers: a linear layer with a transposed weight
        small.nx, small.nf = small.weight.shape
    elif not whole._modules:
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


class _Masks:
    """A hook of a search, which derived layers do not have."""

    def __init__(self, cuts: Cuts) -> None:
        self.cuts = cuts

    def mask(self, x: Tensor) -> Tensor:
        """The mask of the first argument, in its number of dimensions."""
        assert self.cuts.reads is not None
        dim, axis = self.cuts.reads
        return _shaped(axis.mask(x), x, dim)


def replaced(args: tuple[Any, ...], first: Tensor) -> tuple[Any, ...]:
    """The arguments with another tensor wherever the first one is given."""
    return tuple(first if arg is args[0] else arg for arg in args)


def _shaped(mask: Tensor, x: Tensor, dim: int) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = mask.shape[-1]
    if mask.dim() == 2:
        shape[0] = len(mask)
    return mask.reshape(shape)


class MaskRead(_Masks):
    """A forward pre-hook: multiplies the channels that are not chosen by 0."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the first one masked, also where it is given again (keys and values)."""
        if not args:
            raise ValueError(KEYWORD)
        return replaced(args, args[0] * self.mask(args[0]))


class NormBefore(_Masks):
    """A forward pre-hook of a norm: an input of which the norm's statistics are those of the chosen channels.

    Of n chosen channels among C, the layer divides by C, and not by n. With the mean of the chosen channels subtracted and the others 0,
    its mean is 0, and its mean square is that of the chosen ones if they are multiplied by sqrt(C / n). :class:`NormAfter` divides again.
    """

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the first one changed."""
        x, mask, norm = args[0], self.mask(args[0]), self.cuts.norm
        assert norm is not None
        if norm.is_centered:
            x = x - (x * mask).sum(norm.dim, keepdim=True) / mask.sum(norm.dim, keepdim=True)
        return (x * mask * _factor(mask, norm.dim), *args[1:])


class NormAfter(_Masks):
    """A forward hook of a norm: undoes the factor of :class:`NormBefore`."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output, its bias apart."""
        assert self.cuts.reads is not None and self.cuts.norm is not None
        factor = 1 / _factor(self.mask(output), self.cuts.norm.dim)
        bias = getattr(module, "bias", None)
        if bias is None:
            return output * factor
        bias = _shaped(bias, output, self.cuts.reads[0])
        return (output - bias) * factor + bias


def _factor(mask: Tensor, dim: int) -> Tensor:
    return (mask.shape[dim] / mask.sum(dim, keepdim=True)).sqrt()


def mask_cuts(network: nn.Module) -> None:
    """Adds the hooks of a search to the layers that have cuts and no hooks."""
    for module in network.modules():
        cuts = cuts_of(module)
        if cuts is None or cuts.reads is None or any(isinstance(h, _Masks) for h in module._forward_pre_hooks.values()):
            continue
        if cuts.norm is None:
            module.register_forward_pre_hook(MaskRead(cuts))
        else:
            module.register_forward_pre_hook(NormBefore(cuts))
            module.register_forward_hook(NormAfter(cuts))
