"""Real numbers as targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric

from nas.tasks.base import Task
from nas.tasks.constants import VarianceOfTargets
from nas.tasks.values import tensor_of

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


class Regression(Task):
    """Mean squared, absolute or Huber error; mean squared and absolute error as metrics.

    Args:
        criterion: The loss.
        output: See :class:`nas.tasks.Task`.
    """

    def __init__(self, criterion: Literal["mse", "l1", "huber"] = "mse", output: int | str | None = None) -> None:
        super().__init__(output)
        if criterion not in _LOSSES:
            raise ValueError(f"criterion must be one of {', '.join(_LOSSES)}, got {criterion!r}")
        self.criterion = criterion

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean loss over all elements.

        Shape:
            - output: (B, *)
            - target: (B, *), the shape of `output` exactly; there is no broadcasting
        """
        output = tensor_of(self.prediction(output), "Regression: the output")
        if output.shape != target.shape:
            raise ValueError(
                f"Regression expects outputs of the target's shape {tuple(target.shape)}, got {tuple(output.shape)}"
            )
        return _LOSSES[self.criterion](output, target)

    def metrics(self) -> Mapping[str, Metric]:
        return {"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}

    def constant(self) -> Metric:
        return VarianceOfTargets()

    def check_target(self, target: Any) -> None:
        target = tensor_of(target, "Regression: the target")
        if not target.is_floating_point():
            raise ValueError(f"Regression needs floating-point targets, got {target.dtype}")
        if not bool(torch.isfinite(target).all()):
            raise ValueError("targets hold NaN or infinity")
