"""One class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping

from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from nas.tasks.classification import Classification
from nas.tasks.constants import MajorityShare


class Segmentation(Classification):
    """Cross-entropy over pixels; intersection over union (mean over classes) and accuracy (the share of correct pixels).

    Args:
        num_classes: Number of classes, at least 2; targets are 0 ... num_classes - 1 for every pixel.
        class_weights: See :class:`nas.tasks.Classification`.
        ignore_index: Label of pixels that count in neither loss nor metrics, for example 255; null: none.
        output: See :class:`nas.tasks.Task`.
    """

    def __init__(
        self,
        num_classes: int,
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
        output: int | str | None = None,
    ) -> None:
        super().__init__(num_classes, class_weights=class_weights, ignore_index=ignore_index, output=output)

    def metrics(self) -> Mapping[str, Metric]:
        iou = MulticlassJaccardIndex(self.num_classes, ignore_index=self.ignore_index, validate_args=False)
        return {"iou": iou, **super().metrics()}

    def constant(self) -> Metric:
        # the other classes' intersections are empty
        return MajorityShare(self.num_classes, divisor=self.num_classes, ignore_index=self.ignore_index)
