"""Widths: how many channels (features) layers have."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.supernet.base import ChoiceModule, Condition, check_choice, context_of

Axes = Mapping[str, Sequence[int]]

# layer -> attribute that holds a width -> tensor -> the dimension that it sizes
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


class Width(int):
    """A whole number that is still to be chosen: the largest of its sizes while searching.

    Made by :func:`nas.width`. Layers keep it as their ``in_channels``, ``out_features`` and so on, which is how a supernet knows what to
    mask and what to cut. It may be multiplied and divided by whole numbers; it cannot be added to.

    Attributes:
        name: The choice's name.
        labels: The sizes' texts, as chosen.
        sizes: The sizes here, after multiplications and divisions; rising.
        origin: Told apart by the call of :func:`nas.width` that made it.
        shared: Whether other widths may use the same name.
    """

    name: str
    labels: tuple[str, ...]
    sizes: tuple[int, ...]
    origin: object
    shared: bool

    def __new__(
        cls, name: str, labels: Sequence[str], sizes: Sequence[int], origin: object, shared: bool = False
    ) -> Width:
        """Stores the sizes; the number is the largest."""
        width = super().__new__(cls, max(sizes))
        width.name, width.labels, width.sizes = name, tuple(labels), tuple(sizes)
        width.origin, width.shared = origin, shared
        return width

    def _with(self, sizes: Sequence[int]) -> Width:
        if min(sizes) < 1:
            raise ValueError(f"width {self.name!r} would become {list(sizes)}; sizes must stay at least 1")
        return Width(self.name, self.labels, sizes, self.origin, self.shared)

    def __mul__(self, factor: int) -> Width:
        if isinstance(factor, Width) or not isinstance(factor, int):
            raise ValueError(f"width {self.name!r} can be multiplied by a whole number only, got {factor!r}")
        return self._with([size * factor for size in self.sizes])

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> int:
        if isinstance(divisor, Width):
            same = self.name == divisor.name
            ratios = {a // b for a, b in zip(self.sizes, divisor.sizes, strict=True)} if same else set()
            if len(ratios) != 1:
                raise ValueError(f"width {self.name!r} cannot be divided by width {divisor.name!r}")
            return ratios.pop()
        return self._with([size // divisor for size in self.sizes])

    def __add__(self, other: int) -> int:
        raise ValueError(f"width {self.name!r} cannot be added to; bring the branches to one width and sum them")

    __radd__ = __sub__ = __rsub__ = __add__

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        raise ValueError(f"width {self.name!r} can only be multiplied by a whole number or divided by one with //")

    __truediv__ = __rtruediv__ = __rfloordiv__ = __rpow__ = __lshift__ = __rshift__ = __and__ = __or__ = __pow__
    __divmod__ = __pow__

    def __neg__(self) -> Any:
        return self.__pow__(None)

    def __mod__(self, divisor: int) -> int:
        rests = {size % divisor for size in self._sizes_of(divisor)}
        if len(rests) > 1:
            raise ValueError(f"width {self.name!r}: sizes {list(self.sizes)} leave different remainders by {divisor}")
        return rests.pop()

    def _sizes_of(self, divisor: int) -> tuple[int, ...]:
        """The sizes; of a division of a width by itself just the largest, since all leave the same."""
        return self.sizes[-1:] if isinstance(divisor, Width) else self.sizes

    def __copy__(self) -> Width:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Width:
        return self

    def __reduce__(self) -> Any:
        return Width, (self.name, self.labels, self.sizes, self.origin, self.shared)

    def size(self, label: str) -> int:
        """The number under a label."""
        return self.sizes[self.labels.index(label)]


class WidthRow(ChoiceModule):
    """A width as a place of decision. It is in no network: it stands for what layers of that width share."""

    cuts = True

    def __init__(self, width: Width) -> None:
        """Stands for `width`."""
        super().__init__()
        self.width = width
        self.shared = width.shared
        self.origin = width.origin

    def rows(self) -> dict[str, tuple[str, ...]]:
        return {self.width.name: self.width.labels}

    def first(self, name: str) -> str:
        return self.width.labels[-1]

    def parts(self) -> Iterator[tuple[Condition, nn.Module]]:
        yield from ()

    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        raise AssertionError("a width is derived with its layers")


_MADE: ContextVar[list[str] | None] = ContextVar("nas_widths_made", default=None)


@contextmanager
def noting_widths() -> Iterator[list[str]]:
    """Gives the names of widths that are made while the block runs: a width that arithmetic swallowed is in no layer."""
    made: list[str] = []
    token = _MADE.set(made)
    try:
        yield made
    finally:
        _MADE.reset(token)


def make_width(name: str, sizes: Sequence[int], shared: bool) -> Width:
    """The width of :func:`nas.width` while searching.

    Raises:
        ValueError: A bad name or bad sizes.
    """
    sizes = check_sizes(name, sizes)
    if (made := _MADE.get()) is not None:
        made.append(name)
    return Width(name, [str(size) for size in sizes], sizes, object(), shared)


def check_sizes(name: str, sizes: Sequence[int]) -> list[int]:
    """The sizes, rising.

    Raises:
        ValueError: Fewer than two, one below 1 or given twice, or a bad name.
    """
    if any(not isinstance(size, int) or size < 1 for size in sizes) or len(set(sizes)) != len(sizes):
        raise ValueError(f"width {name!r}: sizes must be different whole numbers from 1 on, got {list(sizes)}")
    check_choice(name, dict.fromkeys(str(size) for size in sizes))
    return sorted(sizes)


def widths_of(module: nn.Module) -> dict[str, Width]:
    """Attribute -> width, of the widths that a module itself holds."""
    return {key: value for key, value in vars(module).items() if isinstance(value, Width)}


def narrowed(module: nn.Module, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
    """A copy of a module in which its own widths are chosen: plain numbers, and the first channels of its weights.

    Args:
        module: Any module that holds widths.
        choices: Choice name -> label, for these widths at least.
        copies: The memo of ``copy.deepcopy``; what lies inside has been copied already.

    Raises:
        ValueError: A layer with weights that is not known how to cut.
    """
    made = {key: (width, width.size(choices[width.name])) for key, width in widths_of(module).items()}
    axes = _axes(module, list(made))
    small = copy.copy(module)
    small.__dict__ = {
        key: value if key in ("_parameters", "_buffers") or key in made else copy.deepcopy(value, copies)
        for key, value in module.__dict__.items()
    }
    small._parameters, small._buffers = dict(module._parameters), dict(module._buffers)
    small._forward_pre_hooks = type(module._forward_pre_hooks)(
        {k: hook for k, hook in small._forward_pre_hooks.items() if not isinstance(hook, MaskInput)}
    )
    for key, (_, size) in made.items():
        setattr(small, key, size)
    for tensors in (small._parameters, small._buffers):
        for name, tensor in list(tensors.items()):
            if tensor is not None:
                tensors[name] = _cut(tensor, axes.get(name, {}), made)  # type: ignore[assignment]
    return small


def narrow_inputs(module: nn.Module, choices: Mapping[str, Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments that a layer with widths gets once they are chosen: the first channels of the first one."""
    for key, width in widths_of(module).items():
        dim = _channel_dim(module, key)
        if args and dim is not None:
            args = (args[0].narrow(dim, 0, width.size(choices[width.name])), *args[1:])
    return args


def _channel_dim(module: nn.Module, key: str) -> int | None:
    """Where the channels that an attribute numbers are in a layer's input; None where they are not in it."""
    if key == "in_channels":
        return -(module.weight.dim() - 1)  # type: ignore[operator]
    return {"in_features": -1, "num_features": 1, "num_parameters": 1}.get(key)


def _axes(module: nn.Module, held: Sequence[str]) -> dict[str, dict[int, str]]:
    """Tensor name -> dimension -> the attribute whose width sizes it."""
    known = next((sizes for kind, sizes in _LAYERS if isinstance(module, kind)), None)
    if known is None:
        own = [name for name, tensor in {**module._parameters, **module._buffers}.items() if tensor is not None]
        if own:
            layers = ", ".join(kind.__name__.lstrip("_") for kind, _ in _LAYERS)
            raise ValueError(
                f"{type(module).__name__} has weights ({own[0]}) that nas.width does not know how to cut; it cuts those of {layers}"
            )
        return {}
    axes: dict[str, dict[int, str]] = {}
    for key in held:
        if key not in known:
            raise ValueError(f"{type(module).__name__}.{key} cannot be a width")
        for name, dim in known[key].items():
            axes.setdefault(name, {})[dim] = key
    if "groups" in held:
        if not {"in_channels", "out_channels"} <= set(held):
            raise ValueError(
                f"{type(module).__name__}: where groups is a width, in_channels and out_channels must be too"
            )
        axes["weight"].pop(1)  # depthwise: one input channel a filter
    elif {"in_channels", "out_channels"} & set(held) and getattr(module, "groups", 1) != 1:
        raise ValueError(
            f"{type(module).__name__}: a width in a convolution of {module.groups} groups; groups must be 1 or the width"
        )
    return axes


def _cut(tensor: Tensor, axes: Mapping[int, str], made: Mapping[str, tuple[Width, int]]) -> Tensor:
    cut = tensor.detach()
    for dim, key in axes.items():
        cut = cut.narrow(dim, 0, made[key][1])
    cut = cut.clone()
    return nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut


class MaskInput:
    """A forward pre-hook of a layer that reads a width: the channels that are not there are multiplied by 0."""

    def __init__(self, width: Width, dim: int) -> None:
        self.width = width
        self.dim = dim

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the first one masked."""
        x = args[0]
        context = context_of(self.width.name)
        weights = context.op_weights[context.rows[self.width.name]][..., : len(self.width.labels)]
        mask = (weights @ _steps(self.width.sizes, weights.device, weights.dtype)).to(x.dtype)  # (N,) or (B, N)
        shape = [1] * x.dim()
        shape[self.dim] = mask.shape[-1]
        if mask.dim() == 2:
            shape[0] = len(mask)
        return (x * mask.reshape(shape), *args[1:])


def _steps(sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        # torch.compile warns of caches, and keeps constants itself
        made = _made_steps.__wrapped__ if torch.compiler.is_compiling() else _made_steps
        return made(sizes, device, dtype)


@lru_cache(maxsize=1024)
def _made_steps(sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(K, N): 1 where channel j is among the first sizes[k]."""
    return (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).to(device, dtype)


def mask_readers(network: nn.Module) -> None:
    """Makes the layers of `network` that read a width mask their input; where they do already, nothing changes.

    Raises:
        ValueError: A layer holds a width that it could not be cut to.
    """
    for module in network.modules():
        if held := widths_of(module):
            _axes(module, list(held))
        for value in vars(module).values():
            if isinstance(value, (tuple, list)) and any(isinstance(item, Width) for item in value):
                raise ValueError(
                    f"{type(module).__name__} cannot be cut to a width: it is not a layer that nas.width knows"
                )
        for key, width in widths_of(module).items():
            present = any(isinstance(hook, MaskInput) for hook in module._forward_pre_hooks.values())
            if key in _READS and not present:
                dim = _channel_dim(module, key)
                assert dim is not None
                module.register_forward_pre_hook(MaskInput(width, dim))
