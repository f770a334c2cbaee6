"""DilationNet1d, found by neural architecture search in search_spaces.dilation.DilationNet1d.

Architecture:
    layer1.conv: dilation_4
    layer2.conv: dilation_8

Weights: retrained. Seed 0; gumbel-nas 0.1.0, torch 2.14.1.
accuracy (test split): 0.4204.
338 parameters, 13,904 MACs.

Parts of this file are from
- gumbel-nas: Apache License 2.0
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("model.safetensors")
WEIGHTS_SHA256 = "ae19548d4a8954de5855ff5a8354e751d157c2f55b679b240d329c5874e953bf"


class Layer(nn.Module):
    """The layer."""

    def __init__(self, in_channels: int, dilation: int) -> None:
        super().__init__()
        self.pointwise = None
        self.conv = nn.Sequential(
            nn.Conv1d(
                in_channels, 8, 3, padding=dilation, dilation=dilation, bias=False
            ),
            nn.BatchNorm1d(8),
        )
        self.norm = nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(self.norm(x))


class Network(nn.Sequential):
    """The network."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(
                Layer(in_channels=1, dilation=4),
                Layer(in_channels=8, dilation=8),
            ),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        )


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
