"""Several labels for each sample, each present or absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MultilabelExactMatch, MultilabelF1Score

from nas.tasks.base import Task
from nas.tasks.constants import AlwaysPositive
from nas.tasks.values import tensor_of, weights_of


class MultiLabel(Task):
    """Binary cross-entropy of logits; F1 (mean over labels) and exact match (the share of samples with all labels correct).

    A label is predicted if its probability is above 0.5.

    Args:
        num_labels: Number of labels, at least 1.
        pos_weight: Weight of the positive samples of each label in the loss, above 0, as of ``torch.nn.BCEWithLogitsLoss``; null: 1.
        output: See :class:`nas.tasks.Task`.
    """

    pos_weight: Tensor | None

    def __init__(self, num_labels: int, pos_weight: list[float] | None = None, output: int | str | None = None) -> None:
        super().__init__(output)
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        self.num_labels = num_labels
        self.register_buffer("pos_weight", weights_of("pos_weight", pos_weight, num_labels), persistent=False)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean binary cross-entropy in nats over samples and labels.

        Shape:
            - output: (B, num_labels) logits
            - target: (B, num_labels) of 0 and 1, of any dtype
        """
        output = self._logits(output)
        if output.shape != target.shape:
            raise ValueError(
                f"MultiLabel expects outputs of the target's shape {tuple(target.shape)}, got {tuple(output.shape)}"
            )
        weight = None if self.pos_weight is None else self.pos_weight.to(output)
        return F.binary_cross_entropy_with_logits(output, target.to(output), pos_weight=weight)

    def prediction(self, output: Any) -> Any:
        return self._logits(output).sigmoid()  # torchmetrics takes numbers in [0, 1] for probabilities

    def _logits(self, output: Any) -> Tensor:
        return tensor_of(super().prediction(output), "MultiLabel: the output")

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "f1": MultilabelF1Score(self.num_labels, average="macro", validate_args=False),
            "exact_match": MultilabelExactMatch(self.num_labels, validate_args=False),
        }

    def constant(self) -> Metric:
        return AlwaysPositive(self.num_labels)

    def check_target(self, target: Any) -> None:
        target = tensor_of(target, "MultiLabel: the target")
        if target.dim() != 2 or target.shape[1] != self.num_labels:
            raise ValueError(f"MultiLabel needs targets of shape (batch, {self.num_labels}), got {tuple(target.shape)}")
        if not bool(((target == 0) | (target == 1)).all()):
            raise ValueError("MultiLabel needs targets of 0 and 1")
