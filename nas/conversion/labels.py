"""Labels of channels: which elements of tensors must be kept or dropped together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

FIXED = 0  # the label of channels that are always kept


class Labels:
    """Makes labels and collects which of them are one: the labels of two channels that are added, for example.

    A label tensor has the shape of an activation and holds the label of each element; expanded dimensions take no memory.
    """

    def __init__(self) -> None:
        """Only the fixed label exists."""
        self.number = 1
        self._elements: list[tuple[int, int]] = []
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._fixed: list[np.ndarray] = []

    def new(self, *shape: int) -> Tensor:
        """Labels that no other element has."""
        size = int(np.prod(shape))
        self.number += size
        return torch.arange(self.number - size, self.number).reshape(shape)

    def new_elements(self, *shape: int) -> Tensor:
        """Labels of a tensor that is read element by element. They say nothing of channels before they meet some."""
        labels = self.new(*shape)
        self._elements.append((self.number - labels.numel(), self.number))
        return labels

    def are_elements(self, labels: Tensor) -> bool:
        """Whether all labels are of elements, or of channels that are always kept."""
        flat = reduced(labels)[0]
        inside = flat == FIXED
        for start, stop in self._elements:
            inside |= (flat >= start) & (flat < stop)
        return bool(inside.all())

    def join(self, a: Tensor, b: Tensor) -> None:
        """The labels at equal positions of two tensors are one; the tensors are broadcast."""
        a, b = reduced(*torch.broadcast_tensors(a, b))
        different = a != b
        self.pairs.append((a[different].numpy(), b[different].numpy()))

    def join_along(self, labels: Tensor, dims: Iterable[int]) -> Tensor:
        """All labels along dimensions are one, because an operation mixes them. Returns the labels at index 0, with these dimensions."""
        first = labels
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        self.join(first, labels)
        return first

    def freeze(self, labels: Tensor) -> None:
        """These channels are always kept."""
        self._fixed.append(np.unique(reduced(labels)[0].numpy()))

    def join_equal(self, a: Tensor, b: Tensor) -> None:
        """Joins two flat tensors of labels."""
        if len(a):
            self.pairs.append((a.numpy(), b.numpy()))

    @property
    def num_fixed(self) -> int:
        """How often channels were fixed."""
        return len(self._fixed)

    def has_news(self, start: int, roots: np.ndarray) -> bool:
        """Whether a pair from number `start` on joins two sets."""
        return any((roots[a] != roots[b]).any() for a, b in self.pairs[start:])

    def sets(self) -> np.ndarray:
        """Label -> the number of its set, as if no channel were fixed by :meth:`freeze`."""
        first, second = (np.concatenate([p[i] for p in self.pairs] or [np.empty(0, dtype=np.int64)]) for i in (0, 1))
        graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(self.number, self.number))
        return np.asarray(connected_components(graph, directed=False)[1])

    def roots(self) -> np.ndarray:
        """Label -> the number of its set; 0 is the set of channels that are always kept."""
        sets = self.sets()
        fixed = np.isin(sets, sets[np.concatenate([[FIXED], *self._fixed])])
        return np.where(fixed, 0, sets + 1)


def reduced(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Flat tensors of equal shape without the dimensions along which none of them changes its address."""
    for dim in range(tensors[0].dim()):
        if all(tensor.stride(dim) == 0 or tensor.shape[dim] == 1 for tensor in tensors):
            tensors = tuple(tensor.narrow(dim, 0, min(1, tensor.shape[dim])) for tensor in tensors)
    return tuple(tensor.reshape(-1) for tensor in tensors)


def varies(labels: Tensor, dim: int) -> bool:
    """Whether labels change along a dimension."""
    if labels.shape[dim] < 2 or labels.stride(dim) == 0:
        return False
    a, b = reduced(*torch.broadcast_tensors(labels, labels.narrow(dim, 0, 1)))
    return bool((a != b).any())


def varying(labels: Tensor) -> list[int]:
    """The dimensions along which labels change."""
    return [dim for dim in range(labels.dim()) if varies(labels, dim)]


def sharper(a: Tensor, b: Tensor) -> Tensor:
    """Of two label tensors of one shape, the one that tells more channels apart."""
    return a if len(varying(a)) >= len(varying(b)) else b
