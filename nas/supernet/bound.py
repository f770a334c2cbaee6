"""A supernet bound to op weights: a plain module of its inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nas.relaxations import OpWeights
from nas.supernet.supernet import Supernet


class BoundSupernet(nn.Module):
    """A supernet that runs with fixed op weights.

    Attributes:
        supernet: The supernet, shared with whoever else holds it.
        weights: (E, K), in a buffer that no state dict has.
        active: The candidates to run; None: all of them.
    """

    weights: Tensor

    def __init__(self, supernet: Supernet, op_weights: OpWeights) -> None:
        """Binds the op weights."""
        super().__init__()
        self.supernet = supernet
        self.active = op_weights.active
        self.register_buffer("weights", op_weights.weights.detach().clone(), persistent=False)

    def forward(self, *args: Any) -> Any:
        """Runs the supernet."""
        return self.supernet(*args, op_weights=OpWeights(self.weights, self.active))
