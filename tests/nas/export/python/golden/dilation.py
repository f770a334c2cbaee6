"""The network 'dilation'.

Parts of this file are from
- gumbel-nas: Apache License 2.0
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("model.safetensors")
WEIGHTS_SHA256 = ""


class Layer(nn.Module):
    """The layer."""

    def __init__(self, in_channels: int, dilation: int) -> None:
        super().__init__()
        self.pointwise = None
        self.conv = nn.Conv1d(
            in_channels, 4, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.act(self.norm(x))


class Network(nn.Sequential):
    """The network."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(
                Layer(in_channels=1, dilation=2),
                Layer(in_channels=4, dilation=16),
                Layer(in_channels=4, dilation=1),
            ),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(4, 10),
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
