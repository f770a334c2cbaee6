"""The network 'nasbench201'.

Parts of this file are from
- gumbel-nas: Apache License 2.0
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("model.safetensors")
WEIGHTS_SHA256 = ""


NUM_NODES = 4


def edge_name(source: int, node: int) -> str:
    """The name of the choice between two nodes."""
    return f"edge_{source}_{node}"


def sum_outputs(modules: Sequence[nn.Module], inputs: Sequence[Tensor]) -> Tensor:
    """The sum of the outputs of modules, each with its own input."""
    outputs = [module(x) for module, x in zip(modules, inputs, strict=True)]
    total: Tensor = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total


class Zero(nn.Module):
    """Returns zeros of the input's shape, as if the branch were absent."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros.

        Shape:
            - input, output: (*)
        """
        return torch.zeros_like(x)


class ResidualBlock(nn.Module):
    """The residual block."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.conv_b = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(in_channels, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.downsample(x) + self.conv_b(self.conv_a(x))
        return y


class Cell(nn.Module):
    """The cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                "edge_0_1": nn.Identity(),
                "edge_0_2": nn.AvgPool2d(
                    3, stride=1, padding=1, count_include_pad=False
                ),
                "edge_1_2": Zero(),
                "edge_0_3": nn.Sequential(
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                ),
                "edge_1_3": Zero(),
                "edge_2_3": nn.Sequential(
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(channels),
                ),
            },
        )

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for node in range(1, NUM_NODES):
            edges = [self.edges[edge_name(source, node)] for source in range(node)]
            nodes.append(sum_outputs(edges, nodes))
        return nodes[-1]


class Network(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
        )
        self.cells = nn.Sequential(
            Cell(channels=4),
            ResidualBlock(in_channels=4, channels=8),
            Cell(channels=8),
            ResidualBlock(in_channels=8, channels=16),
            Cell(channels=16),
        )
        self.lastact = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.cells(x)
        x = self.lastact(x)
        x = self.pool(x)
        x = self.flatten(x)
        x = self.classifier(x)
        return x


def load(weights: str | Path | None = None) -> Network:
    """The network with its weights, in eval mode.

    Args:
        weights: A safetensors file; by default the one beside this file, which must be as it was exported.
    """
    import hashlib

    from safetensors.torch import load_file

    if weights is None:
        weights = WEIGHTS
        digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
        if WEIGHTS_SHA256 and digest != WEIGHTS_SHA256:
            raise ValueError(
                f"{WEIGHTS} is not as it was exported (SHA-256 differs); "
                "to load it all the same, give its path"
            )
    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval()
