"""The base class of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from nas.tasks.values import element


class Task(nn.Module, ABC):
    """Base class of tasks: the loss and the metrics of a training.

    A task is a module; its parameters are trained with the network's weights. A batch is ``(inputs, target)``. If `inputs` is a tuple or
    list, its elements are the arguments of the network. If it is a dict with names of the network's arguments, these are the arguments.

    Args:
        output: The element of the network's output that the task uses: a name in a dict, dataclass or named tuple, or a position; null: the
            whole output.
    """

    output: int | str | None = None

    def __init__(self, output: int | str | None = None) -> None:
        super().__init__()
        self.output = output

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """The 0-d loss of one batch.

        Args:
            output: The network's output.
            target: The batch's target.
        """

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """New metrics by name, each updated with (prediction, target); the first is the headline metric."""

    def teach(self, parent: nn.Module | Callable[[], nn.Module | None]) -> None:
        """Takes the trained network that the search space started from: the network, or a function that makes it where it is needed."""

    def prepare(self, inputs: tuple[Any, ...], target: Any) -> Any:
        """The target that :meth:`loss` gets; called once for each batch, before it is split into parts.

        Args:
            inputs: The network's arguments.
            target: The batch's target.
        """
        return target

    def observing(self, network: nn.Module) -> AbstractContextManager[None]:
        """Surrounds a forward pass of the trained network whose :meth:`loss` comes next."""
        return nullcontext()

    def truth(self, target: Any) -> Any:
        """The part of a prepared target that metrics use."""
        return target

    def prediction(self, output: Any) -> Any:
        """The part of the network's output that metrics use; by default the element `output`."""
        return output if self.output is None else element(output, self.output)

    def constant(self) -> Metric | None:
        """A new metric that computes the best headline score of a constant output; None if the score is unknown.

        The metric is updated with (prediction, target) but uses only the target. A network with no better score has learned nothing.
        """
        return None

    def check_target(self, target: Any) -> None:
        """Raises ValueError for targets that do not fit the task; called with every batch while it is on the CPU."""
