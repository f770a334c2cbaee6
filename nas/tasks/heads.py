"""Several heads, each with a task of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from nas.tasks.base import Task
from nas.tasks.values import element, named


class Heads(Task):
    """The weighted sum of the losses of several heads; all metrics of each head, as ``head/metric``.

    Outputs and targets are dicts, dataclasses or named tuples with the names of the heads, or tuples in the order of the heads. If the task
    of a head has an `output`, this is its element of the network's output.

    Args:
        tasks: Name of a head -> its task.
        weights: Name of a head -> weight of its loss, at least 0; 1 for other heads.
        main: The head that has the headline metric; null: it is ``mean``, the mean over heads of their headline metrics.
        output: See :class:`nas.tasks.Task`; the element that holds all heads.
    """

    def __init__(
        self,
        tasks: dict[str, Task],
        weights: dict[str, float] | None = None,
        main: str | None = None,
        output: int | str | None = None,
    ) -> None:
        super().__init__(output)
        weights = {**dict.fromkeys(tasks, 1.0), **(weights or {})}
        if not tasks or not all(name and "." not in name for name in tasks):
            raise ValueError(f"tasks must have names without a point, got {list(tasks)}")
        for name in (*weights, *([] if main is None else [main])):
            if name not in tasks:
                raise ValueError(f"there is no head {name!r}; the heads are {', '.join(tasks)}")
        if not all(0.0 <= weight < float("inf") for weight in weights.values()):
            raise ValueError(f"weights must be at least 0, got {weights}")
        self.weights = weights
        self.names = list(tasks)
        self.tasks = nn.ModuleList(tasks.values())  # names of an nn.ModuleDict must not be "type" or "items"
        self.main = main
        if len({metric.higher_is_better for metric in self._headlines().values()}) > 1:
            raise ValueError(
                "the best of some headline metrics is the highest, of others the lowest; set `main` to a head"
            )

    def loss(self, output: Any, target: Any) -> Tensor:
        """The weighted sum of the losses of the heads.

        Shape:
            - output: a dict, dataclass or tuple of the outputs of the heads
            - target: a dict or tuple of the targets of the heads
        """
        outputs = self._outputs(output)
        losses = []
        for name, task in self._named():
            with _of_head(name):
                losses.append(
                    self.weights[name] * task.loss(outputs[name], _part(target, name, self.names, "the target"))
                )
        return torch.stack(losses).sum()

    def prediction(self, output: Any) -> dict[str, Any]:
        outputs = self._outputs(output)
        return {name: task.prediction(outputs[name]) for name, task in self._named()}

    def metrics(self) -> Mapping[str, Metric]:
        all_metrics = {
            f"{name}/{key}": HeadMean({name: metric}, self.names)
            for name, task in sorted(self._named(), key=lambda item: item[0] != self.main)  # the main head is the first
            for key, metric in task.metrics().items()
        }
        return all_metrics if self.main else {"mean": HeadMean(self._headlines(), self.names), **all_metrics}

    def constant(self) -> Metric | None:
        found = {name: task.constant() for name, task in self._named() if self.main in (None, name)}
        known = {name: metric for name, metric in found.items() if metric is not None}
        return HeadMean(known, self.names) if len(known) == len(found) else None

    def check_target(self, target: Any) -> None:
        for name, task in self._named():
            with _of_head(name):
                task.check_target(_part(target, name, self.names, "the target"))

    def _named(self) -> Iterator[tuple[str, Task]]:
        return cast(Iterator[tuple[str, Task]], zip(self.names, self.tasks, strict=True))

    def _headlines(self) -> dict[str, Metric]:
        return {name: next(iter(task.metrics().values())) for name, task in self._named() if self.main in (None, name)}

    def _outputs(self, output: Any) -> dict[str, Any]:
        """Head -> its part of the output; the whole output for a task that knows its element."""
        output = super().prediction(output)
        return {
            name: output if task.output is not None else _part(output, name, self.names, "the output")
            for name, task in self._named()
        }


class HeadMean(Metric):
    """The mean of metrics of heads.

    Args:
        metrics: Head -> metric of its predictions and targets.
        heads: The names of all heads in their order.
    """

    full_state_update = False

    def __init__(self, metrics: Mapping[str, Metric], heads: Sequence[str]) -> None:
        super().__init__()
        self.heads = list(heads)
        self.names = list(metrics)
        self.metrics = nn.ModuleList(metrics.values())

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]  # a constant of other metrics
        """Of the first metric."""
        return next(metric for _, metric in self._named()).higher_is_better

    def update(self, output: Mapping[str, Any], target: Any) -> None:
        """Adds one batch."""
        for name, metric in self._named():
            metric.update(output[name], _part(target, name, self.heads, "the target"))

    def compute(self) -> Any:
        """The mean; the value itself of one metric."""
        values = [metric.compute() for _, metric in self._named()]
        return values[0] if len(values) == 1 else torch.stack([value.float() for value in values]).mean()

    def persistent(self, mode: bool = False) -> None:
        for _, metric in self._named():
            metric.persistent(mode)

    def reset(self) -> None:
        super().reset()
        for _, metric in self._named():
            metric.reset()

    def _named(self) -> Iterator[tuple[str, Metric]]:
        return cast(Iterator[tuple[str, Metric]], zip(self.names, self.metrics, strict=True))


def _part(value: Any, name: str, heads: Sequence[str], what: str) -> Any:
    """The element of a head: by name, or by position in a tuple or list."""
    if not isinstance(value, (tuple, list)) or named(value):
        return element(value, name, what)
    if len(value) != len(heads):
        raise ValueError(f"{what} has {len(value)} elements, but there are {len(heads)} heads: {', '.join(heads)}")
    return value[list(heads).index(name)]


@contextmanager
def _of_head(name: str) -> Iterator[None]:
    """Adds the name of a head to errors."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"head {name!r}: {error}") from error
