"""Dilation rates, one choice a layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

import nas


class DilationNet1d(nas.SearchSpace):
    """A plain stack of 1-D convolution layers for sequences; each layer's dilation is chosen.

    A layer is convolution (kernel 3, length kept), batch norm, ReLU; then global average pooling and a linear head. There is one batch
    norm a layer, after the choice.
    """

    def __init__(
        self,
        num_layers: int = 3,
        channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4, 8, 16),
        in_channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        """Sets the sizes.

        Args:
            num_layers: Layers, and so choices, at least 1.
            channels: Channels of every layer.
            dilations: The candidates of each choice, steps between taps; at least two, all different.
            in_channels: Channels of the input.
            num_classes: Outputs.

        Raises:
            ValueError: A value out of range.
        """
        for name, value in [("num_layers", num_layers), ("channels", channels), ("in_channels", in_channels)]:
            if value < 1:
                raise ValueError(f"DilationNet1d: {name} must be at least 1, got {value}")
        if min(dilations, default=1) < 1 or len(set(dilations)) != len(dilations):
            raise ValueError(f"DilationNet1d: dilations must be different and at least 1, got {list(dilations)}")
        self.num_layers = num_layers
        self.channels = channels
        self.dilations = tuple(dilations)
        self.in_channels = in_channels
        self.num_classes = num_classes

    def network(self, stage: str = "search") -> nn.Module:
        """The stack.

        Shape:
            - input: (B, in_channels, L)
            - output: (B, num_classes)
        """
        layers = nn.Sequential()
        channels = self.in_channels
        for i in range(self.num_layers):
            with nas.scope(f"layer{i + 1}"):
                layers.append(_Layer(channels, self.channels, self.dilations))
            channels = self.channels
        return nn.Sequential(layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, self.num_classes))


class _Layer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.conv = nas.choice(
            "conv",
            {
                f"dilation_{d}": partial(nn.Conv1d, in_channels, out_channels, 3, padding=d, dilation=d, bias=False)
                for d in dilations
            },
        )
        self.norm = nn.BatchNorm1d(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))
