"""One class for each sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from nas.tasks.base import Task
from nas.tasks.constants import MajorityShare


class Classification(Task):
    """Cross-entropy; accuracy (the share of correct samples).

    If a network returns a tuple, the first element is the prediction, and the others are predictions of auxiliary heads.

    Args:
        num_classes: Number of classes, at least 2; targets are 0 ... num_classes - 1.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        auxiliary_weight: Weight of each auxiliary prediction's loss, at least 0.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, auxiliary_weight: float = 0.4) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if not 0.0 <= auxiliary_weight < float("inf"):
            raise ValueError(f"auxiliary_weight must be at least 0, got {auxiliary_weight}")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.auxiliary_weight = auxiliary_weight

    def loss(self, output: Tensor | tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Mean cross-entropy in nats, plus the weighted losses of auxiliary predictions.

        Shape:
            - output: (B, num_classes, *), or a tuple of such tensors
            - target: (B, *) int64
        """
        if isinstance(output, Tensor):
            return self._loss(output, target)
        main, *others = [self._loss(each, target) for each in output]
        return main + self.auxiliary_weight * sum(others)

    def prediction(self, output: Tensor | tuple[Tensor, ...]) -> Tensor:
        return output if isinstance(output, Tensor) else output[0]

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        if output.dim() < 2 or output.shape[1] != self.num_classes:
            raise ValueError(
                f"Classification expects outputs of shape (batch, {self.num_classes}), got {tuple(output.shape)}"
            )
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def metrics(self) -> Mapping[str, Metric]:
        # `validate_args` would synchronize with the device at every update; check_target checks earlier
        return {"accuracy": MulticlassAccuracy(self.num_classes, average="micro", validate_args=False)}

    def constant(self) -> Metric:
        return MajorityShare(self.num_classes)

    def check_target(self, target: Tensor) -> None:
        if target.is_floating_point() or target.dtype == torch.bool:
            raise ValueError(f"Classification needs integer labels, got {target.dtype}")
        if target.numel() and not (0 <= int(target.min()) and int(target.max()) < self.num_classes):
            raise ValueError(
                f"labels must lie in 0 ... {self.num_classes - 1} (num_classes: {self.num_classes}), "
                f"got {int(target.min())} ... {int(target.max())}"
            )
