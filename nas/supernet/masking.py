"""Masks of channels while searching, and norms over the channels that are chosen."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nas.supernet.cuts import Cuts, SearchHook

KEYWORD = "its input is a keyword argument"


class _Masks(SearchHook):
    """A hook that masks the channels that a layer reads."""

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


def mask_reads(module: nn.Module, cuts: Cuts) -> None:
    """Adds the hooks of a search to a layer that reads channels, unless it has them."""
    if cuts.reads is None or any(isinstance(hook, _Masks) for hook in module._forward_pre_hooks.values()):
        return
    if cuts.norm is None:
        module.register_forward_pre_hook(MaskRead(cuts))
    else:
        module.register_forward_pre_hook(NormBefore(cuts))
        module.register_forward_hook(NormAfter(cuts))
