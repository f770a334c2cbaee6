"""A supernet with fixed op weights, called with its inputs only."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nas.relaxations import OpWeights
from nas.supernet.supernet import Supernet


class BoundSupernet(nn.Module):
    """A supernet that runs with fixed op weights, in a buffer that is not in the state dict."""

    weights: Tensor

    def __init__(self, supernet: Supernet, op_weights: OpWeights) -> None:
        """Binds the op weights."""
        super().__init__()
        self.supernet = supernet
        self.active = op_weights.active
        self.register_buffer("weights", op_weights.weights.detach().clone(), persistent=False)

    @property
    def network(self) -> nn.Module:
        """The network with choices."""
        return self.supernet.network

    def forward(self, *args: Any) -> Any:
        """Runs the supernet."""
        return self.supernet(*args, op_weights=OpWeights(self.weights, self.active))
