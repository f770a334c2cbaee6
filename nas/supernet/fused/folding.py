"""Op weights folded into the last layers of candidates.

``w * BN(z)`` is a batch norm with scale and shift multiplied by w. ``w * (W z + b)`` is a layer with the weights w W and w b. A candidate
that ends in such a layer thus returns its term of the mixture directly. The mixture is a plain sum that keeps no tensors for its backward
pass, and the gradient of w follows from the gradients of the layer's parameters.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Scaled(NamedTuple):
    """A layer's parameters, multiplied by an op weight; the shift is None for a layer without bias."""

    scale: Tensor
    shift: Tensor | None


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, which a direct call of its parts would skip."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_foldable(layer: nn.Module) -> bool:
    """Whether a layer can take an op weight into its parameters: batch norm, convolution or linear, of exactly these types.

    Layers with hooks or parametrizations (which change the type) are not foldable, because these read the original parameters.
    """
    return type(layer) in call_scaled and not has_hooks(layer) and "forward" not in layer.__dict__


def scale_all(layers: Sequence[nn.Module], weights: Tensor) -> list[Scaled]:
    """The parameters of foldable layers, multiplied by their op weights (len(layers),), by a few operations in total."""
    tensors: list[Tensor] = []
    owners: list[int] = []
    for i, layer in enumerate(layers):
        # a batch norm may have no parameters
        tensors.append(weights.new_ones(layer.num_features) if layer.weight is None else layer.weight)  # type: ignore[arg-type]
        owners.append(i)
        if layer.bias is not None:
            tensors.append(layer.bias)  # type: ignore[arg-type]
            owners.append(i)
    scaled = iter(_multiplied(tensors, weights, owners))
    return [Scaled(next(scaled), None if layer.bias is None else next(scaled)) for layer in layers]


def _multiplied(tensors: Sequence[Tensor], weights: Tensor, owners: Sequence[int]) -> list[Tensor]:
    """Every tensor times the weight of its owner."""
    if len({tensor.dtype for tensor in tensors}) > 1:
        return [tensor * weights[i].to(tensor.dtype) for tensor, i in zip(tensors, owners, strict=True)]
    return list(_MultiplyParts.apply(weights.to(tensors[0].dtype), owners, *tensors))


class _MultiplyParts(torch.autograd.Function):
    """Multiplies each tensor by its owner's weight, as parts of one long tensor, by a constant number of operations."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, owners: Sequence[int], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        owner = _owner_of_each(tuple(owners), tuple(map(Tensor.numel, tensors)), weights.device)
        ctx.save_for_backward(weights, owner, *tensors)
        return _parts(_joined(tensors) * weights[owner], tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        weights, owner, *tensors = ctx.saved_tensors
        # a layer that did not run has no gradient, so that the optimizer does not change it
        grad = _joined([torch.zeros_like(t) if g is None else g for g, t in zip(grads, tensors, strict=True)])
        weight_grad = None
        if ctx.needs_input_grad[0]:
            weight_grad = torch.zeros_like(weights).index_add(0, owner, grad * _joined(tensors))
        scaled = _parts(grad * weights[owner], tensors)
        return weight_grad, None, *[None if g is None else s for g, s in zip(grads, scaled, strict=True)]


@functools.lru_cache(maxsize=64)
def _owner_of_each(owners: tuple[int, ...], sizes: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(owners).repeat_interleave(torch.tensor(sizes)).to(device)


@functools.lru_cache(maxsize=1024)
def indices(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Indices as a tensor that is made once, so that no step waits for a copy to the device."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        return torch.tensor(values, dtype=torch.int64, device=device)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor if tensor.dim() == 1 else tensor.reshape(-1) for tensor in tensors])


def _parts(flat: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    parts = flat.split(list(map(Tensor.numel, like)))
    return tuple([part if t.dim() == 1 else part.view(t.shape) for part, t in zip(parts, like, strict=True)])


def _batch_norm(norm: Any, x: Tensor, scaled: Scaled, tracked: list[Tensor]) -> Tensor:
    """``_BatchNorm.forward`` with another scale and shift."""
    norm._check_input_dim(x)
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        if norm.momentum is None:
            norm.num_batches_tracked.add_(1)
            momentum = 1.0 / float(norm.num_batches_tracked)
        else:
            tracked.append(norm.num_batches_tracked)
    of_batch = norm.training or (norm.running_mean is None and norm.running_var is None)
    keep = not norm.training or norm.track_running_stats
    mean, var = (norm.running_mean, norm.running_var) if keep else (None, None)
    return F.batch_norm(x, mean, var, scaled.scale, scaled.shift, of_batch, momentum, norm.eps)


def _conv(conv: Any, x: Tensor, scaled: Scaled, tracked: list[Tensor]) -> Tensor:
    result: Tensor = conv._conv_forward(x, scaled.scale, scaled.shift)
    return result


def _linear(linear: Any, x: Tensor, scaled: Scaled, tracked: list[Tensor]) -> Tensor:
    return F.linear(x, scaled.scale, scaled.shift)


call_scaled: Mapping[type[nn.Module], Callable[[Any, Tensor, Scaled, list[Tensor]], Tensor]] = {
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    nn.Linear: _linear,
}
"""Type of a foldable layer -> function of the layer, its input and scaled parameters: the op weight times the layer's output.

The last argument collects batch counters for :func:`count_batches`.
"""


def count_batches(tracked: Sequence[Tensor]) -> None:
    """Increments batch counters by their number of occurrences; counters with equal numbers share one operation."""
    times = Counter(map(id, tracked))
    counters = {id(counter): counter for counter in tracked}
    for number in set(times.values()):
        torch._foreach_add_([counter for key, counter in counters.items() if times[key] == number], number)
