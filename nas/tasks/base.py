"""What a task must say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric


class Task(nn.Module, ABC):
    """What is minimised and measured. A module: parameters of its own are trained with the network's weights.

    A batch is ``(inputs, target)``; where `inputs` is a tuple or list, the network is called with several arguments.
    """

    @abstractmethod
    def loss(self, output: Any, target: Tensor) -> Tensor:
        """The 0-d loss of one batch.

        Args:
            output: What the network returned.
            target: The batch's target.
        """

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Fresh metrics by name, each updated with (output, target); the first one is the headline."""

    def prediction(self, output: Any) -> Any:
        """The part of a network's output that metrics see; by default all of it."""
        return output

    def constant(self) -> Metric | None:
        """A fresh metric of what the best constant output scores by the headline metric; None where nobody knows.

        Updated like the others, with (output, target), of which it sees the target alone. A network that does no better has learned
        nothing.
        """
        return None

    def check_target(self, target: Tensor) -> None:
        """Raises ValueError for targets that the task cannot have; sees every batch while it is on the CPU."""
