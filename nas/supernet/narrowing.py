"""Cutting layers to their first channels, and masking the others while searching."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.supernet.base import context_of
from nas.supernet.cuts import cut, cuts_of, mask_cuts
from nas.supernet.valued_layer import CalledAsLayer, mix_values, variant
from nas.supernet.width import Width, steps, widths_of

# layer -> attribute that holds a width -> tensor -> the dimension with this width
_CONV: Mapping[str, Mapping[str, int]] = {
    "in_channels": {"weight": 1},
    "out_channels": {"weight": 0, "bias": 0},
    "groups": {},
}
_LAYERS: tuple[tuple[type[nn.Module], Mapping[str, Mapping[str, int]]], ...] = (
    (nn.Linear, {"in_features": {"weight": 1}, "out_features": {"weight": 0, "bias": 0}}),
    (nn.Conv1d, _CONV),
    (nn.Conv2d, _CONV),
    (nn.Conv3d, _CONV),
    (_BatchNorm, {"num_features": dict.fromkeys(("weight", "bias", "running_mean", "running_var"), 0)}),
    (nn.PReLU, {"num_parameters": {"weight": 0}}),
)
_READS = ("in_features", "in_channels")


def narrowed(module: nn.Module, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
    """A copy of a module with plain numbers for its own widths and values.

    Weights are cut to their first channels, and kernels to their center. `copies` is the memo of ``copy.deepcopy``; it has the copies of
    inner modules already. Raises ValueError for layers that cannot be cut.
    """
    if (cuts := cuts_of(module)) is not None:
        return cut(module, cuts, lambda axis: axis.kept(choices), lambda width: width.size(choices[width.name]), copies)
    made = {key: (width, width.size(choices[width.name])) for key, width in widths_of(module).items()}
    axes = _axes(module, list(made)) if made else {}
    chosen = variant(module, choices)
    chosen._forward_pre_hooks = type(module._forward_pre_hooks)(
        {k: hook for k, hook in module._forward_pre_hooks.items() if not isinstance(hook, (MaskInput, CalledAsLayer))}
    )
    small: Any = chosen.__new__(type(chosen))  # copy.copy refuses parametrized layers
    small.__dict__ = {
        key: value if key in ("_parameters", "_buffers") or key in made else copy.deepcopy(value, copies)
        for key, value in vars(chosen).items()
    }
    for key, (_, size) in made.items():
        setattr(small, key, size)
    small._buffers = {key: _cut(tensor, axes.get(key, {}), made) for key, tensor in chosen._buffers.items()}
    small._parameters = {
        key: None if old is None else _kept(old, _cut(chosen._parameters[key], axes.get(key, {}), made), copies)
        for key, old in module._parameters.items()
    }
    return small


def narrow_inputs(module: nn.Module, choices: Mapping[str, Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a layer whose widths are chosen: the first argument is cut to its first channels."""
    for key, width in widths_of(module).items():
        dim = _channel_dim(module, key)
        if args and dim is not None:
            args = (args[0].narrow(dim, 0, width.size(choices[width.name])), *args[1:])
    return args


def _channel_dim(module: nn.Module, key: str) -> int | None:
    """The dimension of a layer's input whose size the attribute `key` gives; None if it is no input size."""
    if key == "in_channels":
        return -(module.weight.dim() - 1)  # type: ignore[operator]
    return {"in_features": -1, "num_features": 1, "num_parameters": 1}.get(key)


def _axes(module: nn.Module, keys: Sequence[str]) -> dict[str, dict[int, str]]:
    """Tensor name -> dimension -> the attribute whose width is its size."""
    known = next((sizes for kind, sizes in _LAYERS if isinstance(module, kind)), None)
    if known is None:
        own = [name for name, tensor in {**module._parameters, **module._buffers}.items() if tensor is not None]
        if own:
            layers = ", ".join(kind.__name__.lstrip("_") for kind, _ in _LAYERS)
            raise ValueError(
                f"{type(module).__name__} has weights ({own[0]}) that nas.width cannot cut; it cuts weights of {layers}"
            )
        return {}
    axes: dict[str, dict[int, str]] = {}
    for key in keys:
        if key not in known:
            raise ValueError(f"{type(module).__name__}.{key} cannot be a width")
        for name, dim in known[key].items():
            axes.setdefault(name, {})[dim] = key
    if "groups" in keys:
        if not {"in_channels", "out_channels"} <= set(keys):
            raise ValueError(
                f"{type(module).__name__}: if groups is a width, in_channels and out_channels must be widths too"
            )
        axes["weight"].pop(1)  # depthwise: one input channel per filter
    elif {"in_channels", "out_channels"} & set(keys) and getattr(module, "groups", 1) != 1:
        raise ValueError(
            f"{type(module).__name__}: a width in a convolution of {module.groups} groups; groups must be 1 or the width"
        )
    return axes


def _cut(tensor: Tensor | None, axes: Mapping[int, str], made: Mapping[str, tuple[Width, int]]) -> Tensor | None:
    if tensor is None:
        return None
    cut = tensor.detach()
    for dim, key in axes.items():
        cut = cut.narrow(dim, 0, made[key][1])
    return cut.clone()


def _kept(old: nn.Parameter, kept: Tensor | None, copies: dict[Any, Any]) -> nn.Parameter:
    """The parameter of a smaller layer. Layers that shared a tensor still do, if they keep the same shape of it."""
    assert kept is not None
    key = id(old) if kept.shape == old.shape else (id(old), kept.shape)
    made: nn.Parameter = copies.setdefault(key, nn.Parameter(kept, old.requires_grad))
    return made


class MaskInput:
    """A forward pre-hook of a layer that reads a width: multiplies the channels beyond the chosen size by 0."""

    def __init__(self, width: Width, dim: int) -> None:
        self.width = width
        self.dim = dim

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the first one masked."""
        x = args[0]
        context = context_of(self.width.name)
        weights = context.op_weights[context.rows[self.width.name]][..., : len(self.width.labels)]
        mask = (weights @ steps(self.width.sizes, weights.device, weights.dtype)).to(x.dtype)  # (N,) or (B, N)
        shape = [1] * x.dim()
        shape[self.dim] = mask.shape[-1]
        if mask.dim() == 2:
            shape[0] = len(mask)
        return (x * mask.reshape(shape), *args[1:])


def prepare_layers(network: nn.Module) -> None:
    """Prepares the layers that hold widths or values for a search; raises ValueError for layers that cannot hold them.

    Layers that read a width get a :class:`MaskInput` hook, unless they have one.
    """
    mix_values(network)
    mask_cuts(network)
    for module in network.modules():
        if widths := widths_of(module):
            _axes(module, list(widths))
        for value in vars(module).values():
            if isinstance(value, (tuple, list)) and any(isinstance(item, Width) for item in value):
                raise ValueError(
                    f"{type(module).__name__} cannot be cut to a width: nas.width does not support this layer"
                )
        for key, width in widths_of(module).items():
            present = any(isinstance(hook, MaskInput) for hook in module._forward_pre_hooks.values())
            if key in _READS and not present:
                dim = _channel_dim(module, key)
                assert dim is not None
                module.register_forward_pre_hook(MaskInput(width, dim))
