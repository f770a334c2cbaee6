"""Candidates that run as one convolution.

A sum of convolutions of one input is a convolution: ``sum_k conv(x, W_k, dilation k) = conv(x, sum_k embed(W_k))``. Candidates that are
bare convolutions and differ only in kernel size or dilation run as one convolution, over the union of their taps.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.ops import runs_natively, tap_conv
from nas.supernet.fused.folding import Scaled, indices


class Kernel(NamedTuple):
    """Size and dilation, one number for each spatial dimension."""

    size: tuple[int, ...]
    dilation: tuple[int, ...]

    def taps(self) -> list[tuple[int, ...]]:
        """Offsets of the weights from the center, in the order of the weights."""
        offsets = [[i * d - d * (k - 1) // 2 for i in range(k)] for k, d in zip(*self, strict=True)]
        return list(itertools.product(*offsets))


class MergedKernel(NamedTuple):
    """The union of several kernels.

    Attributes:
        taps: Offsets of the union; for a dense kernel, all offsets of the box in order.
        places: Index of the tap of every weight, kernel by kernel.
        box: Size of the dense kernel; None: only the taps are computed.
    """

    taps: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]
    box: tuple[int, ...] | None


def family(layer: nn.Module) -> tuple[object, ...] | None:
    """A key that is equal for convolutions that can run as one; None for other layers.

    Such convolutions have the same channels, groups and stride. Their zero padding keeps the input size, up to the stride.
    """
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or layer.padding_mode != "zeros":
        return None
    reach = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    if layer.padding == "same":
        if any(r % 2 for r in reach):
            return None
    elif isinstance(layer.padding, str) or any(2 * int(p) != r for p, r in zip(layer.padding, reach, strict=True)):
        return None
    return type(layer), layer.in_channels, layer.out_channels, layer.groups, layer.stride


def merged_kernel(layers: Sequence[nn.Module], device: torch.device) -> MergedKernel | None:
    """The merged kernel of convolutions of one family; None if the merged kernel would need more work than separate convolutions.

    A dense kernel is used if it has no more weights than the separate kernels in total. Depthwise convolutions may compute only the taps,
    if a native kernel supports them.
    """
    convs = [layer for layer in layers if isinstance(layer, nn.Conv1d | nn.Conv2d)]
    first = convs[0]
    depthwise = first.groups == first.in_channels == first.out_channels and set(first.stride) == {1}
    found = _union(tuple(Kernel(conv.kernel_size, conv.dilation) for conv in convs))
    return found if found.box is not None or (depthwise and runs_natively(device, len(found.taps))) else None


@functools.lru_cache(maxsize=1024)
def _union(kernels: tuple[Kernel, ...]) -> MergedKernel:
    """A dense kernel if it has no more weights than the separate kernels in total; otherwise only their taps."""
    each = [kernel.taps() for kernel in kernels]
    union = sorted(set(itertools.chain(*each)))
    reach = [max(abs(tap[axis]) for tap in union) for axis in range(len(union[0]))]
    box = tuple(2 * r + 1 for r in reach)
    dense = math.prod(box) <= sum(map(len, each))
    if dense:
        union = list(itertools.product(*[range(-r, r + 1) for r in reach]))
    where = {tap: t for t, tap in enumerate(union)}
    return MergedKernel(tuple(union), tuple(where[tap] for taps in each for tap in taps), box if dense else None)


def merged(kernel: MergedKernel, parts: Sequence[Scaled]) -> Scaled:
    """The weights and bias of the merged convolution.

    Shape:
        - weights of a part: (out, in / groups, *kernel size)
        - weights of the result: (out, in / groups, *box), or (out, T)
    """
    weights = torch.cat([part.scale.flatten(2) for part in parts], 2)
    total = weights.new_zeros(*weights.shape[:2], len(kernel.taps)).index_add(
        2, indices(kernel.places, weights.device), weights
    )
    total = total.squeeze(1) if kernel.box is None else total.unflatten(2, kernel.box)
    shifts = [part.shift for part in parts if part.shift is not None]
    return Scaled(total, torch.stack(shifts).sum(0) if shifts else None)


def call_merged(kernel: MergedKernel, conv: nn.Module, x: Tensor, scaled: Scaled) -> Tensor:
    """Runs the merged convolution; `conv` is one of its convolutions, and `scaled` comes from :func:`merged`."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    if kernel.box is not None:
        call = F.conv1d if isinstance(conv, nn.Conv1d) else F.conv2d
        padding = [size // 2 for size in kernel.box]
        return call(x, scaled.scale, scaled.shift, conv.stride, padding, 1, conv.groups)
    y = tap_conv(x, scaled.scale, kernel.taps)
    return y if scaled.shift is None else y + scaled.shift.view(-1, *[1] * (y.dim() - 2))
