"""Layers that hold values: their mixture over the numbers while searching, and their form for one choice of numbers."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nas.ops import sum_outputs
from nas.ops.fused import is_eager
from nas.supernet.base import Context, active_context, context_of
from nas.supernet.cuts import SearchHook
from nas.supernet.fused.folding import Scaled
from nas.supernet.fused.merging import call_merged, family, merged, merged_kernel
from nas.supernet.trees import difference, form_of, mix_trees, versions_of
from nas.supernet.value import has_values, resolved, values_of

# layers with weights -> attributes that do not decide a size of the weights, or decide the size of a kernel
_LAYERS: tuple[tuple[type[nn.Module], frozenset[str]], ...] = (
    (
        _ConvNd,
        frozenset(
            "kernel_size stride padding output_padding dilation _reversed_padding_repeated_twice".split(),
        ),
    ),
    (_NormBase, frozenset({"eps", "momentum"})),
    (nn.LayerNorm, frozenset({"eps"})),
    (nn.GroupNorm, frozenset({"eps", "num_groups"})),
    (nn.MultiheadAttention, frozenset({"num_heads", "head_dim", "dropout"})),
    (nn.RNNBase, frozenset({"dropout"})),
)
_Terms = list[tuple[Mapping[str, str], Any]]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)  # linear in their weights; combinations of the kernel size are a mask


def variant(layer: nn.Module, choices: Mapping[str, Any]) -> nn.Module:
    """The layer with plain numbers in place of its values. It shares the tensors; a smaller kernel is the center of the largest one."""
    made: Any = layer.__new__(type(layer))
    made.__dict__ = {key: resolved(item, choices) for key, item in vars(layer).items() if key != "forward"}
    if isinstance(layer, _ConvNd) and has_values(layer.kernel_size):
        made._parameters = {**layer._parameters, "weight": center(layer.weight, made.kernel_size)}
    return made


def center(weight: Tensor, size: Sequence[int]) -> Tensor:
    """A view of the center of a kernel; where there is no exact center, one element nearer to the start.

    Shape:
        - weight: (out, in, *kernel)
        - result: (out, in, *size)
    """
    for dim, length in enumerate(size, start=2):
        weight = weight.narrow(dim, (weight.shape[dim] - length) // 2, length)
    return weight


def mix_values(network: nn.Module) -> None:
    """Makes the layers that hold values compute their mixtures; raises ValueError for layers whose weights cannot have values."""
    for module in network.modules():
        if values_of(module) and not isinstance(module.__dict__.get("forward"), ValuedForward):
            _check(module)
            module.forward = ValuedForward(module)
            module.register_forward_pre_hook(CalledAsLayer())


def _check(layer: nn.Module) -> None:
    kind = type(layer).__name__
    held = [key for key, item in vars(layer).items() if has_values(item)]
    known = next((keys for base, keys in _LAYERS if isinstance(layer, base)), frozenset[str]())
    own = [key for key, tensor in {**layer._parameters, **layer._buffers}.items() if tensor is not None]
    if own and (odd := [key for key in held if key not in known]):
        raise ValueError(
            f"{kind}.{odd[0]} cannot be a value, because nas.value does not know which sizes of the weights depend on it ({own[0]}); "
            "use nas.width for numbers of channels, or a choice of layers"
        )
    if "forward" in vars(layer):
        raise ValueError(
            f"{kind} cannot hold a value, because its forward was replaced; put the new forward into a class"
        )
    if "kernel_size" in held and isinstance(layer, _ConvNd) and "weight" not in own:
        raise ValueError(f"{kind}: the kernel size cannot be a value, because the weight is parametrized")


class CalledAsLayer(SearchHook):
    """A forward pre-hook that does nothing. torch's and our own fast paths call a layer with hooks, and do not read its attributes."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Nothing."""


class ValuedForward:
    """The forward of a layer that holds values: ``sum_n w_n layer_n(x)`` over all combinations n of its numbers.

    The op weight of a combination is the product of the op weights of its labels. Convolutions that differ only in the kernel size run as
    one convolution with a mask on its kernel. Other combinations run one after another, and share the tensors of the layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        """Stores the layer."""
        self.layer = layer
        self.choices = {choice.name: choice.labels for choice in values_of(layer)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The mixture.

        Raises:
            RuntimeError: Called outside the forward of the supernet that owns the choices.
            ValueError: The outputs of two combinations differ in form, or the layer changes its input.
        """
        (*_, context) = map(context_of, self.choices)
        labels, shares = self._combinations(context)
        if shares is None:
            return self._run(context, labels[0], args, kwargs)
        where = f"{type(self.layer).__name__} with the values {', '.join(self.choices)}"
        before = versions_of((args, kwargs))
        is_linear = type(self.layer) in _CONVOLUTIONS and shares.dim() == 1 and self.layer.padding_mode == "zeros"
        if is_linear:
            made = _convolved(self.layer, labels, shares, *args, **kwargs)
        else:
            made = [(each, self._run(context, each, args, kwargs)) for each in labels]
        if len(made) > 1 and versions_of((args, kwargs)) != before:
            raise ValueError(f"{where} changes its input in place; make it return a new tensor (inplace=False)")
        if shares.dim() > 1 and (isinstance(self.layer, nn.RNNBase) or not getattr(self.layer, "batch_first", True)):
            raise ValueError(f"{where}: noise per sample needs outputs with the batch in the first dimension")
        outputs = [output for _, output in made]
        forms = {", ".join(each.values()): form_of(output) for each, output in made}
        if (found := difference(forms)) is not None:
            raise ValueError(f"{where}: the outputs of its numbers differ in {found[0]} ({found[1]})")
        return sum_outputs(outputs) if is_linear else mix_trees(outputs, shares)

    def _combinations(self, context: Context) -> tuple[list[dict[str, str]], Tensor | None]:
        """The combinations of labels that run, and their op weights (n,) or (B, n); None if there is one, with weight 1."""
        shares: Tensor | None = None
        running = []
        for name, labels in self.choices.items():
            if name in context.decided:
                running.append([context.decided[name]])
                continue
            row = context.rows[name]
            indices = context.active[row] if context.active else list(range(len(labels)))
            running.append([labels[k] for k in indices])
            if not context.unit_weights:
                weights = context.op_weights[row][..., indices]
                shares = weights if shares is None else (shares[..., :, None] * weights[..., None, :]).flatten(-2)
        return [dict(zip(self.choices, each, strict=True)) for each in itertools.product(*running)], shares

    def _run(self, context: Context, labels: dict[str, str], args: Any, kwargs: Any) -> Any:
        """One combination. Layers inside that hold the same values take the same numbers."""
        with active_context(replace(context, decided={**context.decided, **labels})):
            return type(self.layer).forward(variant(self.layer, labels), *args, **kwargs)


def _convolved(layer: Any, labels: Sequence[Mapping[str, str]], shares: Tensor, input: Tensor) -> _Terms:
    """Terms of a sum that is the mixture of convolutions: one for each stride, dilation and padding, or one for all.

    The labels of a term are those of its largest kernel.
    """
    groups: dict[Any, list[int]] = {}
    variants: list[Any] = [variant(layer, each) for each in labels]
    for k, conv in enumerate(variants):
        groups.setdefault(_position(conv, layer.weight.shape[2:]), []).append(k)
    convs: list[Any] = []
    parts: list[Scaled] = []
    shown: list[Mapping[str, str]] = []
    for members in groups.values():
        largest = max(members, key=lambda k: math.prod(variants[k].kernel_size))
        conv = variants[largest]
        sizes = tuple(variants[k].kernel_size for k in members)
        mask = windows(sizes, conv.kernel_size, shares.device, shares.dtype) @ shares[members]
        bias = None if parts or layer.bias is None else layer.bias * shares.sum()
        convs.append(conv)
        shown.append(labels[largest])
        parts.append(Scaled(conv.weight * mask, bias))
    families = {family(conv) for conv in convs}
    if is_eager() and len(convs) > 1 and len(families) == 1 and None not in families:
        kernel = merged_kernel(convs, input.device)
        if kernel is not None:
            return [(shown[0], call_merged(kernel, convs[0], input, merged(kernel, parts)))]
    return [(each, conv._conv_forward(input, *part)) for each, conv, part in zip(shown, convs, parts, strict=True)]


def _position(conv: Any, largest: Sequence[int]) -> Any:
    """The position of the kernel on the input. Convolutions of equal position are one convolution with a mask on the kernel."""
    rest = [whole - size for whole, size in zip(largest, conv.kernel_size, strict=True)]
    padding = conv.padding
    if not isinstance(padding, str):
        padding = tuple(p + d * (n // 2) for p, d, n in zip(padding, conv.dilation, rest, strict=True))
    return conv.stride, conv.dilation, padding, tuple(n % 2 for n in rest)


def windows(sizes: Sequence[Sequence[int]], largest: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Masks of kernels, centered in the largest one.

    Shape:
        - result: (*largest, n) for n sizes
    """
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        made = _made_windows.__wrapped__ if torch.compiler.is_compiling() else _made_windows
        return made(tuple(map(tuple, sizes)), tuple(largest), device, dtype)


@functools.lru_cache(maxsize=1024)
def _made_windows(
    sizes: tuple[tuple[int, ...], ...], largest: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    masks = torch.zeros(*largest, len(sizes), dtype=dtype)
    for k, size in enumerate(sizes):
        center(masks[None, None, ..., k], size).fill_(1.0)
    return masks.to(device)
