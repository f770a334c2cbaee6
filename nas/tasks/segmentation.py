"""One class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from nas.tasks.base import Task
from nas.tasks.classification import Classification
from nas.tasks.constants import MajorityShare


class Segmentation(Task):
    """Cross-entropy over pixels; intersection over union (mean over classes) and accuracy (the share of correct pixels).

    Args:
        num_classes: Number of classes, at least 2; targets are 0 ... num_classes - 1 for every pixel.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.pixels = Classification(num_classes)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy in nats.

        Shape:
            - output: (B, num_classes, *)
            - target: (B, *) int64

        Raises:
            ValueError: Output and target differ in batch size or pixels.
        """
        if output.shape[:1] + output.shape[2:] != target.shape:
            raise ValueError(
                f"Segmentation expects a target for every pixel, got output {tuple(output.shape)} and target {tuple(target.shape)}"
            )
        return self.pixels.loss(output, target)

    def metrics(self) -> Mapping[str, Metric]:
        iou = MulticlassJaccardIndex(self.pixels.num_classes, validate_args=False)
        return {"iou": iou, **self.pixels.metrics()}

    def constant(self) -> Metric:
        num_classes = self.pixels.num_classes
        return MajorityShare(num_classes, divisor=num_classes)  # the other classes' intersections are empty

    def check_target(self, target: Tensor) -> None:
        self.pixels.check_target(target)
