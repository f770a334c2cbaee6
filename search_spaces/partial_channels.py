"""Partial channel connections: while searching, the operation of an edge processes only a part of the channels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import nas
from nas.supernet.search_space import CellEdge
from search_spaces.cells import CellSpace


class PartialChannels(nas.SearchSpace):
    """Searches the cells of another space with a part of their channels, which needs a fraction of the memory.

    While searching, the operations of an edge process the first ``1 / proportion`` of the channels. Other channels bypass them (max-pooled
    if the operation halves the image). Both parts are concatenated and shuffled. The edges of a node have their own logits. The derived
    network is that of the wrapped space, at full width, so it cannot inherit the supernet's weights.

    Args:
        space: The cell-based space.
        proportion: The operations process one of `proportion` channels; must divide the channels of every cell.

    Raises:
        ValueError: `space` is not a CellSpace, or `proportion` is below 2.

    Source: Xu et al. 2020, "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search", and its code,
    yuhuixu1993/PC-DARTS, model_search.py.

    Deviation: A node's edge weights sum to the number of kept edges instead of 1 (see :func:`nas.inputs`). A node that keeps all of its
    edges has no logits for them. For odd image sizes, pooling includes the last row and column.
    """

    inherits_weights = False

    def __init__(self, space: CellSpace, proportion: int = 4) -> None:
        if not isinstance(space, CellSpace):
            raise ValueError(f"PartialChannels: space must be a CellSpace, got {type(space).__name__}")
        if proportion < 2:
            raise ValueError(f"PartialChannels: proportion must be at least 2, got {proportion}")
        self.space = space
        self.proportion = proportion
        self.counting_rule = space.counting_rule

    def network(self, stage: str = "search") -> nn.Module:
        """The wrapped space's network, with partial channels while searching.

        Raises:
            ValueError: The proportion does not divide the channels of a cell.
        """
        if stage != "search" or not nas.searching():
            return self.space.network(stage)
        space = copy.copy(self.space)
        space.learned_edges = True

        def edge(name: str, channels: int, stride: int, stage: str) -> nn.Module:
            if channels % self.proportion:
                raise ValueError(
                    f"PartialChannels: proportion must divide the channels, got {self.proportion} for {channels} channels"
                )
            op = self.space.edge(name, channels // self.proportion, stride, stage)
            return PartialEdge(op, channels, stride, proportion=self.proportion)

        space.edge = edge  # type: ignore[method-assign]
        return space.network(stage)

    def discretize(self, probabilities: Mapping[str, Mapping[str, float]]) -> nas.Genotype:
        return self.space.discretize(probabilities)

    def cells(self, choices: Mapping[str, Any]) -> Mapping[str, Sequence[CellEdge]]:
        return self.space.cells(choices)

    def check_genotype(self, choices: Mapping[str, Any]) -> None:
        self.space.check_genotype(choices)

    def parse_genotype(self, text: str) -> nas.Genotype:
        return self.space.parse_genotype(text)


class PartialEdge(nn.Module):
    """An operation on the first channels. Other channels bypass the operation, and all channels are shuffled.

    Args:
        op: The operation, with ``channels / proportion`` input and output channels.
        channels: Total number of channels.
        stride: Stride of `op`; with 2, the other channels are max-pooled, 2 x 2.
        proportion: `op` processes one of `proportion` channels; also the number of groups of the channel shuffle.
    """

    def __init__(self, op: nn.Module, channels: int, stride: int, *, proportion: int) -> None:
        super().__init__()
        self.split = (channels // proportion, channels - channels // proportion)
        self.op = op
        self.rest = nn.Identity() if stride == 1 else nn.MaxPool2d(stride, ceil_mode=True)
        self.shuffle = nn.ChannelShuffle(proportion)

    def forward(self, x: Tensor) -> Tensor:
        """The concatenated and shuffled channels.

        Shape:
            - input: (B, channels, H, W)
            - output: (B, channels, ceil(H / stride), ceil(W / stride))
        """
        seen, rest = x.split(self.split, dim=1)
        joined: Tensor = self.shuffle(torch.cat([self.op(seen), self.rest(rest)], dim=1))
        return joined
