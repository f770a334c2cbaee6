"""Files of five networks as they were read and approved.

To renew them after a change that is meant, set RENEW_GOLDEN: ``RENEW_GOLDEN=1 pytest -n 0 tests/nas/export/python/test_golden.py``; then
read the difference.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.export.python import network_source

GOLDEN = Path(__file__).parent / "golden"
SPACES = ("dilation", "nasbench201", "darts", "mobile")
LIMIT = 6.0


def clipped(x: Tensor, limit: float = LIMIT) -> Tensor:
    """Values up to a limit, in both directions."""
    return x.clamp(-limit, limit)


class Residual(nn.Module):
    """A layer with a shortcut: scaled, clipped or neither."""

    norm: Any
    offsets: Tensor

    def __init__(self, size, *, scaled=False, clip=False, steps=1):
        super().__init__()
        self.layer = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size) if scaled else None
        self.register_buffer("gain", torch.ones(size))
        self.register_buffer("offsets", torch.tensor([0.5, -0.5]), persistent=False)
        self.clip = clip
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        # a residual step, repeated
        for _ in range(self.steps):
            y = self.layer(x) * self.gain
            if self.norm is not None:
                y = self.norm(y)  # before the limit
            elif self.training:
                y = y + self.offset
            x = x + (clipped(y) if self.clip else y)
        return x

    @property
    def offset(self):
        return self.offsets.sum()


class Steps(nn.Module):
    """Residual layers; the last one is the first again."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(8, 4, bias=False)
        self.blocks = nn.ModuleList(
            [Residual(4), Residual(4, steps=2), Residual(4, scaled=True), Residual(4, clip=True)]
        )
        self.blocks.append(self.blocks[0])
        self.head = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)], nn.Linear(4, 4).requires_grad_(False))

    def forward(self, x: Tensor) -> Tensor:
        x = clipped(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize("name", [*SPACES, "control_flow"])
def test_the_file_is_as_it_was_approved(name, small_space, drawn):
    network = drawn(small_space(name), 1)[1] if name in SPACES else Steps()
    source = network_source(network, f"The network {name!r}.")
    path = GOLDEN / f"{name}.py"
    if os.environ.get("RENEW_GOLDEN"):
        path.write_text(source)
    assert source == path.read_text()
