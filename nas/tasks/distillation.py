"""Learning from a trained network, the parent, with or without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import CosineSimilarity, MeanMetric, MeanSquaredError, Metric

from nas.tasks.base import Task
from nas.tasks.features import BLOCKS, blocks_of, cka, collecting
from nas.tasks.values import tensor_of

Kind = Literal["kl", "mse", "cosine"]


class Taught(NamedTuple):
    """A target with the parent's output and features for the same inputs."""

    target: Any
    output: Tensor
    features: tuple[Tensor, ...] = ()


class Distillation(Task):
    """The loss of another task, and the distance to the outputs of the parent: the trained network that a converted space started from.

    The loss is ``(1 - weight) * task + weight * distance``, and in training ``feature_weight`` times the mean of 1 - CKA over the features.
    The parent runs once for each batch, in eval mode and without gradients. A converted space knows its parent; elsewhere, :meth:`teach`
    takes any network.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", for ``kl``; Saha et al. 2022, "Distilling Representational
    Similarity using Centered Kernel Alignment (CKA)", for features.

    Args:
        task: The task of the labels; null: the labels are not read, and the headline metric compares with the parent.
        weight: Share of the distance in the loss, above 0 and at most 1.
        kind: The distance: ``kl`` of class probabilities, times the square of `temperature`; ``mse``, the mean squared error; ``cosine``,
            1 - cosine of vectors along the last dimension, such as embeddings.
        temperature: Divides the logits for ``kl``, above 0.
        features: Paths of modules of both networks whose outputs are compared, with any numbers of channels; ``blocks``: the outermost
            modules with children that are elements of an ``nn.Sequential`` or ``nn.ModuleList`` of the parent; null: none.
        feature_weight: Weight of the features, above 0.
        output: See :class:`nas.tasks.Task`; the element of the outputs of both networks that is compared.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        task: Task | None = None,
        weight: float = 0.5,
        kind: Kind = "kl",
        temperature: float = 2.0,
        features: Literal["blocks"] | list[str] | None = None,
        feature_weight: float = 1.0,
        output: int | str | None = None,
    ) -> None:
        super().__init__(output)
        if not 0.0 < weight <= 1.0:
            raise ValueError(f"weight must be above 0 and at most 1, got {weight}")
        if not 0.0 < temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
        if not 0.0 < feature_weight < float("inf"):
            raise ValueError(f"feature_weight must be a finite number above 0, got {feature_weight}")
        if isinstance(features, str) and features != BLOCKS:
            raise ValueError(f"features must be {BLOCKS}, a list of paths, or null, got {features!r}")
        if kind not in _METRICS:
            raise ValueError(f"kind must be one of {', '.join(_METRICS)}, got {kind!r}")
        self.task, self.weight, self.kind, self.temperature = task, weight if task else 1.0, kind, temperature
        self.features, self.feature_weight = features, feature_weight
        self._seen: dict[str, Tensor] = {}
        self._blocks: list[str] | None = None  # of the parent
        self._parent: list[nn.Module] = []  # in a list, because the parent is neither trained nor saved
        self._make: Callable[[], nn.Module | None] = lambda: None

    def teach(self, parent: nn.Module | Callable[[], nn.Module | None]) -> None:
        """Sets the parent, which is put into eval mode. A function makes the parent at its first use, unless a network was given."""
        if isinstance(parent, nn.Module):
            self._parent, self._blocks = [parent.eval()], None
        else:
            self._make = parent

    @property
    def parent(self) -> nn.Module:
        """The network that teaches; raises ValueError if there is none."""
        if not self._parent and (made := self._make()) is not None:
            self.teach(made)
        if not self._parent:
            raise ValueError(
                "Distillation has no parent: the space must know it, as search_spaces.converted.Converted does, or call teach(parent)"
            )
        return self._parent[0]

    @property
    def paths(self) -> Sequence[str]:
        """The paths of the features; raises ValueError if there are no blocks."""
        if self.features != BLOCKS:
            return self.features or ()
        if self._blocks is None:
            self._blocks = blocks_of(self.parent)
        if not self._blocks:
            raise ValueError(f"features: {type(self.parent).__name__} has no blocks; name modules instead")
        return self._blocks

    def observing(self, network: nn.Module) -> AbstractContextManager[None]:
        """Keeps the features of a forward pass for the loss that comes next."""
        return collecting(network, self.paths, self._seen, "the network") if self.features else nullcontext()

    def prepare(self, inputs: tuple[Any, ...], target: Any) -> Taught:
        """The target with the parent's output and features.

        Raises:
            ValueError: There is no parent, or a feature does not exist.
        """
        parent, seen = self.parent, dict[str, Tensor]()
        first = next((tensor for tensor in inputs if isinstance(tensor, Tensor)), None)
        with torch.no_grad(), collecting(parent, self.paths, seen, "the parent"):
            output = (parent if first is None else parent.to(first.device))(*inputs)
        return Taught(target, tensor_of(super().prediction(output), "the parent's output"), tuple(seen.values()))

    def loss(self, output: Any, target: Taught) -> Tensor:
        """The weighted sum.

        Shape:
            - output: that of the parent: (B, classes, ...) for ``kl``, (..., D) for ``cosine``, else any

        Raises:
            ValueError: The shapes of the two outputs differ.
        """
        own = tensor_of(super().prediction(output), "the output")
        if own.shape != target.output.shape:
            raise ValueError(
                f"the network's output has the shape {list(own.shape)}, and that of its parent {list(target.output.shape)}"
            )
        loss = self.weight * self._distance(own, target.output)
        if self.task is not None:
            loss = loss + (1 - self.weight) * self.task.loss(output, target.target)
        if self._seen:
            pairs = zip(map(self._seen.pop, self.paths), target.features, strict=True)
            loss = loss + self.feature_weight * torch.stack([1 - cka(*pair) for pair in pairs]).mean()
        return loss

    def _distance(self, own: Tensor, other: Tensor) -> Tensor:
        if self.kind == "mse":
            return F.mse_loss(own, other)
        if self.kind == "cosine":
            return (1 - F.cosine_similarity(own, other, dim=-1)).mean()
        ours, theirs = ((logits / self.temperature).log_softmax(1) for logits in (own, other))
        return (theirs.exp() * (theirs - ours)).sum(1).mean() * self.temperature**2

    def prediction(self, output: Any) -> Any:
        return super().prediction(output) if self.task is None else self.task.prediction(output)

    def truth(self, target: Taught) -> Any:
        return target.output if self.task is None else self.task.truth(target.target)

    def metrics(self) -> Mapping[str, Metric]:
        if self.task is not None:
            return self.task.metrics()
        name, make = _METRICS[self.kind]
        return {name: make()}

    def constant(self) -> Metric | None:
        return None if self.task is None else self.task.constant()

    def check_target(self, target: Any) -> None:
        if self.task is not None:
            self.task.check_target(target)


class Agreement(MeanMetric):
    """The share of samples for which two networks have the same most probable class.

    Shape:
        - both outputs: (B, classes, ...)
    """

    higher_is_better: bool = True  # type: ignore[assignment]

    def update(self, output: Tensor, other: Tensor) -> None:  # type: ignore[override]  # of outputs, not of numbers
        """Adds one batch."""
        super().update((output.argmax(1) == other.argmax(1)).float())


def _cosine() -> Metric:
    return CosineSimilarity(reduction="mean")


_METRICS: Mapping[str, tuple[str, Callable[[], Metric]]] = {
    "kl": ("agreement", Agreement),
    "mse": ("mse", MeanSquaredError),
    "cosine": ("cosine", _cosine),
}
