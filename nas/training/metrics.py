"""Loss and metrics over an epoch, for each data split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from nas.evaluation import scalars_of, update_metrics
from nas.tasks import Task

_SUFFIX = "_metrics"  # a submodule cannot be called "train"


class SplitMetrics(nn.ModuleDict):
    """Data split -> its loss and the task's metrics. Checkpoints hold their state, so an interrupted epoch averages the same values."""

    def add(self, split: str, task: Task) -> None:
        """Registers the metrics of a split. The loss is a mean over batches: ``disable`` of torchmetrics 1.9 leaves weights out."""
        metrics: dict[str, Metric] = {"loss": MeanMetric(nan_strategy="disable"), **task.metrics()}
        for metric in metrics.values():
            metric.persistent(True)
        self[split + _SUFFIX] = nn.ModuleDict(metrics)

    def see(self, split: str, loss: Tensor, prediction: Any, target: Tensor) -> None:
        """Adds one batch to the metrics of a split."""
        update_metrics(cast(Mapping[str, Metric], self[split + _SUFFIX]), loss, prediction, target)

    def see_loss(self, split: str, loss: Tensor) -> None:
        """Adds losses of which the outputs are not known to the metrics of a split."""
        cast(Metric, cast(nn.ModuleDict, self[split + _SUFFIX])["loss"]).update(loss)

    def scalars(self, names: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
        """Tag -> value of the epoch so far, None if nothing was measured; `names` has the scalars of metrics with several scalars."""
        result: dict[str, float | None] = {}
        for split, name, metric in self._metrics():
            if metric.update_called:
                result |= scalars_of(f"{split}/{name}", metric.compute())
            else:
                result |= dict.fromkeys(f"{split}/{scalar}" for scalar in names.get(name, [name]))
        return result

    def reset(self) -> None:
        """Starts a new epoch."""
        for _, _, metric in self._metrics():
            metric.reset()

    def _metrics(self) -> Iterator[tuple[str, str, Metric]]:
        for key, metrics in self.items():
            for name, metric in cast(nn.ModuleDict, metrics).items():
                yield key.removesuffix(_SUFFIX), name, cast(Metric, metric)
