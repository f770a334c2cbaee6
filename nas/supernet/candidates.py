"""Small plain modules that choices and gates are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_PASSING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
"""Modules whose output may be their input, or a view of it."""


def keep_input(module: nn.Module) -> nn.Module:
    """Switches off ``inplace`` in a module, or in the first step of a plain Sequential, because other candidates read the same input."""
    for step in _steps(module):
        if getattr(step, "inplace", False):
            vars(step)["inplace"] = False
            break
        if not isinstance(step, _PASSING):
            break
    return module


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for child in module:
            yield from _steps(child)
    else:
        yield module


class Skip(nn.Module):
    """Returns its first argument, whatever the others are: a block of a network that is left out."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The input.

        Shape:
            - x, output: (*)
        """
        return x


class Zero(nn.Module):
    """Returns zeros of the input's shape, as if the branch were absent."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros.

        Shape:
            - input, output: (*)
        """
        return torch.zeros_like(x)


class Select(nn.Module):
    """Selects positions of one dimension, in the given order.

    Args:
        indices: Positions to select.
        dim: The dimension.
    """

    def __init__(self, indices: Sequence[int], dim: int = 1) -> None:
        super().__init__()
        self.indices = tuple(indices)
        self.dim = dim
        self.index: Tensor
        self.register_buffer("index", torch.tensor(self.indices, dtype=torch.int64), persistent=False)

    def extra_repr(self) -> str:
        return f"{list(self.indices)}, dim={self.dim}"

    def forward(self, x: Tensor) -> Tensor:
        """The slice.

        Shape:
            - input: (*), at least `dim` + 1 dimensions
            - output: the same but len(indices) along `dim`
        """
        return x.index_select(self.dim, self.index)


class SumInputs(nn.Module):
    """Sums chosen inputs, each through its own module.

    The derived form of :func:`nas.inputs`.

    Args:
        branches: Position of an input -> its module, in ascending order.
    """

    def __init__(self, branches: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.indices = tuple(branches)
        self.branches = nn.ModuleList(branches.values())

    def extra_repr(self) -> str:
        return f"inputs={list(self.indices)}"

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The sum.

        Args:
            inputs: All inputs, including unused inputs.

        Shape:
            - output: that of each branch
        """
        pairs = zip(self.indices, self.branches, strict=True)
        outputs = [branch(inputs[i]) for i, branch in pairs]
        total: Tensor = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total


class First(nn.Module):
    """A candidate that returns the first of several outputs of a module: the sequence of an LSTM or a GRU, the output of attention.

    Args:
        module: Returns a tuple or a list.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first output."""
        return self.module(*args, **kwargs)[0]


class Projection(nn.Sequential):
    """A candidate followed by a learned 1x1 projection to the channels (and, by average pooling, the size) of other candidates.

    Args:
        module: The candidate.
        in_channels: Channels (features) of the candidate's output.
        out_channels: Channels of the other candidates' outputs.
        dim: Spatial dimensions: 0 for features (B, C), 1 for sequences (B, C, L), 2 for images (B, C, H, W), 3 for volumes.
        size: Spatial size of the other candidates' outputs; None: no pooling.

    Raises:
        ValueError: A `dim` out of range, or a size of another number of dimensions.
    """

    def __init__(
        self,
        module: nn.Module,
        in_channels: int,
        out_channels: int,
        *,
        dim: int = 2,
        size: Sequence[int] | None = None,
    ) -> None:
        if dim not in (0, 1, 2, 3):
            raise ValueError(f"Projection: dim must be 0, 1, 2 or 3, got {dim}")
        if size is not None and len(size) != dim:
            raise ValueError(f"Projection: size must have {dim} numbers, got {list(size)}")
        steps: list[nn.Module] = [module]
        if dim == 0:
            steps.append(nn.Linear(in_channels, out_channels))
        else:
            if size is not None:
                pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dim - 1]
                steps.append(pool(size[0] if dim == 1 else tuple(size)))
            steps.append((nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1](in_channels, out_channels, 1))
        super().__init__(*steps)
