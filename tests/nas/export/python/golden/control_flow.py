"""The network 'control_flow'.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("model.safetensors")
WEIGHTS_SHA256 = ""


LIMIT = 6.0


def clipped(x: Tensor, limit: float = LIMIT) -> Tensor:
    """Values up to a limit, in both directions."""
    return x.clamp(-limit, limit)


class Residual(nn.Module):
    """A layer with a shortcut: scaled, clipped or neither."""

    gain: Tensor
    offsets: Tensor

    def __init__(self, clip: bool, steps: int) -> None:
        super().__init__()
        self.norm = None
        self.clip = clip
        self.steps = steps
        self.register_buffer("gain", torch.zeros(4))
        self.register_buffer(
            "offsets",
            torch.tensor([0.5, -0.5], dtype=torch.float32),
            persistent=False,
        )
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        # a residual step, repeated
        for _ in range(self.steps):
            y = self.layer(x) * self.gain
            if self.training:
                y = y + self.offset
            x = x + (clipped(y) if self.clip else y)
        return x

    @property
    def offset(self):
        return self.offsets.sum()


class Residual2(nn.Module):
    """A layer with a shortcut: scaled, clipped or neither."""

    gain: Tensor
    offsets: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.clip = False
        self.steps = 1
        self.register_buffer("gain", torch.zeros(4))
        self.register_buffer(
            "offsets",
            torch.tensor([0.5, -0.5], dtype=torch.float32),
            persistent=False,
        )
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        # a residual step, repeated
        for _ in range(self.steps):
            y = self.layer(x) * self.gain
            y = self.norm(y)  # before the limit
            x = x + y
        return x

    @property
    def offset(self):
        return self.offsets.sum()


class Network(nn.Module):
    """Residual layers; the last one is the first again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 4, bias=False)
        self.blocks = nn.ModuleList(
            [
                Residual(clip=False, steps=1),
                Residual(clip=False, steps=2),
                Residual2(),
                Residual(clip=True, steps=1),
                Residual(clip=False, steps=1),
            ],
        )
        self.head = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
        self.blocks[4] = self.blocks[0]
        self.head[3].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = clipped(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


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
