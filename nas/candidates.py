"""Small plain modules that choices and gates are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Zero(nn.Module):
    """Zeros of the input's shape: a branch that is not there."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros.

        Shape:
            - input, output: (*)
        """
        return torch.zeros_like(x)


class Select(nn.Module):
    """Takes given positions of one dimension, in their order."""

    def __init__(self, indices: Sequence[int], dim: int = 1) -> None:
        """Sets the slice.

        Args:
            indices: Positions to take.
            dim: The dimension.
        """
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
