"""One class for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from nas.tasks.base import Task
from nas.tasks.constants import MajorityShare, OneOfPresent
from nas.tasks.values import tensor_of, weights_of


class Classification(Task):
    """Cross-entropy; accuracy (the share of correct samples).

    If a network returns a tuple, the first element is the prediction, and the others are predictions of auxiliary heads.

    Args:
        num_classes: Number of classes, at least 2; targets are 0 ... num_classes - 1.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        auxiliary_weight: Weight of each auxiliary prediction's loss, at least 0.
        class_weights: Weight of each class in the loss, above 0, as of ``torch.nn.CrossEntropyLoss``; null: all equal. The metric is not
            weighted.
        ignore_index: Label of elements that count in neither loss nor metrics, for example -100 in the padding of sequences; null: none.
        metric: The headline metric. ``balanced_accuracy`` is the mean over classes of the share of correct samples of the class.
        output: See :class:`nas.tasks.Task`.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float = 0.0,
        auxiliary_weight: float = 0.4,
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
        metric: Literal["accuracy", "balanced_accuracy"] = "accuracy",
        output: int | str | None = None,
    ) -> None:
        super().__init__(output)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if not 0.0 <= auxiliary_weight < float("inf"):
            raise ValueError(f"auxiliary_weight must be at least 0, got {auxiliary_weight}")
        if metric not in ("accuracy", "balanced_accuracy"):
            raise ValueError(f"metric must be accuracy or balanced_accuracy, got {metric!r}")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.auxiliary_weight = auxiliary_weight
        self.ignore_index = ignore_index
        self.metric = metric
        weights = weights_of("class_weights", class_weights, num_classes)
        self.register_buffer("class_weights", weights, persistent=False)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean cross-entropy in nats, plus the weighted losses of auxiliary predictions.

        Shape:
            - output: (B, num_classes, *), or a tuple of such tensors
            - target: (B, *) int64
        """
        output = super().prediction(output)
        if not isinstance(output, (tuple, list)):
            return self._loss(output, target)
        main, *others = [self._loss(each, target) for each in output]
        return main + self.auxiliary_weight * sum(others)

    def prediction(self, output: Any) -> Any:
        output = super().prediction(output)
        return output[0] if isinstance(output, (tuple, list)) else output

    def _loss(self, output: Any, target: Tensor) -> Tensor:
        name = type(self).__name__
        output = tensor_of(output, f"{name}: the output")
        if output.dim() < 2 or output.shape[1] != self.num_classes:
            raise ValueError(f"{name} expects outputs of shape (batch, {self.num_classes}), got {tuple(output.shape)}")
        if output.shape[:1] + output.shape[2:] != target.shape:
            raise ValueError(
                f"{name} expects a label for every prediction, got outputs {tuple(output.shape)} and targets {tuple(target.shape)}"
            )
        return F.cross_entropy(
            output,
            target,
            weight=None if self.class_weights is None else self.class_weights.to(output),
            ignore_index=-100 if self.ignore_index is None else self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def metrics(self) -> Mapping[str, Metric]:
        # `validate_args` would synchronize with the device at every update; check_target checks earlier
        options: dict[str, Any] = {"ignore_index": self.ignore_index, "validate_args": False}
        accuracy = {"accuracy": MulticlassAccuracy(self.num_classes, average="micro", **options)}
        if self.metric == "accuracy":
            return accuracy
        return {self.metric: MulticlassAccuracy(self.num_classes, average="macro", **options), **accuracy}

    def constant(self) -> Metric:
        kind = MajorityShare if self.metric == "accuracy" else OneOfPresent
        return kind(self.num_classes, ignore_index=self.ignore_index)

    def check_target(self, target: Any) -> None:
        name = type(self).__name__
        target = tensor_of(target, f"{name}: the target")
        if target.is_floating_point() or target.dtype == torch.bool:
            raise ValueError(f"{name} needs integer labels, got {target.dtype}")
        if self.ignore_index is not None:
            target = target[target != self.ignore_index]
        if target.numel() and not (0 <= int(target.min()) and int(target.max()) < self.num_classes):
            raise ValueError(
                f"labels must lie in 0 ... {self.num_classes - 1} (num_classes: {self.num_classes}), "
                f"got {int(target.min())} ... {int(target.max())}"
            )
