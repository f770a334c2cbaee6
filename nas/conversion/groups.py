"""Groups of channels that can be cut: units that are kept or dropped together, and the tensors that have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nas.conversion.labels import reduced, varying
from nas.conversion.tracing import Trace

NUM_ROUNDS = 6


@dataclass
class Group:
    """Units that one width counts.

    Attributes:
        name: The path of the first layer that makes the channels.
        units: The sets of labels of the units, in the order of their channels.
        producers: The paths of the layers that make the channels, with the number of channels of a unit.
        is_heads: Whether a unit is an attention head.
    """

    name: str
    units: list[int]
    producers: list[tuple[str, int]] = field(default_factory=list)
    is_heads: bool = False


class Solution:
    """The sets of labels of a trace.

    Attributes:
        roots: Label -> its set; 0 is the set of channels that are always kept.
        groups: The groups.
        whole: Producers that belong to no group -> the reason.
    """

    def __init__(self, known: Trace) -> None:
        """Joins what must be joined, and finds the groups."""
        self.known = known
        self.roots = self._settled()
        self._free = known.labels.sets()
        self.whole: dict[str, str] = {}
        self.groups = self._found()

    def along(self, tensor: str) -> dict[int, np.ndarray]:
        """Dimension of a parameter or buffer -> the set of each of its channels; 0 where they are always kept."""
        result = {dim: self._channels(self.roots[ids.numpy()]) for dim, ids in self.known.axes.get(tensor, {}).items()}
        if (elements := self.known.elements.get(tensor)) is not None:
            sets = self._channels(self.roots[elements.numpy()])
            for dim, highest in _of_each(sets):
                if len(np.unique(highest)) > 1:
                    result.setdefault(dim, highest)
        return {dim: sets for dim, sets in result.items() if sets.any()}

    def _channels(self, sets: np.ndarray) -> np.ndarray:
        return np.where(np.isin(sets, self._made), sets, 0)

    def _settled(self) -> np.ndarray:
        """The sets, after elements have been joined with the channels that they belong to."""
        known = self.known
        for _ in range(NUM_ROUNDS):
            before, fixed = len(known.labels.pairs), known.labels.num_fixed
            self.roots = known.labels.roots()
            self._made = np.unique(
                np.concatenate(
                    [[0], *[self.roots[known.axis(side.tensor, side.dim).numpy()] for side in known.produced]]
                )
            )
            self._made = self._made[self._made > 0]
            for elements, channels in known.followers:
                known.labels.join_equal(*_pairs(self.roots, elements, channels))
            for channels, dims in known.constants:
                full = torch.from_numpy(self.roots[channels.numpy()])
                if any(dim % full.dim() in varying(full) for dim in dims):
                    known.freeze(channels, "it meets a tensor that is not cut")
            for labels in known.rectangles:
                full = torch.from_numpy(
                    self._channels(self.roots[labels.numpy()])
                )  # a table of positions may have any sizes
                dims = varying(full)
                if len(dims) > 1:
                    known.labels.join_along(labels, [min(dims, key=lambda dim: full.shape[dim])])
            for parts in known.splits:
                every = [torch.from_numpy(self.roots[part.numpy()]) for part in parts]
                if any(varying(part) for part in every):
                    for part in parts[1:]:
                        known.labels.join(parts[0], part)
            for elements in known.elements.values():
                sets = self._channels(self.roots[elements.numpy()])
                if len(varying(torch.from_numpy(sets))) > 1 and not any(_of_each(sets)):
                    known.freeze(elements, "a parameter has its channels in several dimensions")
            if known.labels.num_fixed == fixed and not known.labels.has_news(before, self.roots):
                break
        return known.labels.roots()

    def _reason(self, labels: Tensor) -> str:
        """Why the channels of a layer are always kept."""
        own = self._free[labels.numpy()]
        for frozen, reason in self.known.frozen:
            if np.isin(self._free[reduced(frozen)[0].numpy()], own).any():
                return reason
        return "its channels meet others that are always kept"

    def _found(self) -> list[Group]:
        groups: list[Group] = []
        for path, tensor, dim in self.known.produced:
            sets = self.roots[self.known.axis(tensor, dim).numpy()]
            units = list(dict.fromkeys(sets[sets > 0].tolist()))
            if not units:
                self.whole.setdefault(path, self._reason(self.known.axis(tensor, dim)))
                continue
            same = [group for group in groups if not set(units).isdisjoint(group.units)]
            group = same[0] if same else Group(path, [])
            for other in same[1:]:
                group.units += other.units
                group.producers += other.producers
                groups.remove(other)
            group.units = list(dict.fromkeys([*group.units, *units]))
            entry = (path, int((sets == units[0]).sum()))
            if entry not in group.producers:
                group.producers.append(entry)
            if not same:
                groups.append(group)
        heads = {int(s) for labels in self.known.heads for s in np.unique(self.roots[reduced(labels)[0].numpy()])}
        for group in [group for group in groups if len(group.units) < 2]:
            groups.remove(group)
            for path, _ in group.producers:
                self.whole[path] = "its channels can only be kept or dropped together"
        for group in groups:
            group.is_heads = not heads.isdisjoint(group.units) and any(number > 1 for _, number in group.producers)
        return groups


def _of_each(sets: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Dimensions along which elements of a parameter have one set each, if 0 is left out: (dimension, (n,) the sets)."""
    for dim in range(sets.ndim):
        rows = np.moveaxis(sets, dim, 0).reshape(sets.shape[dim], -1)
        highest = rows.max(1, initial=0)
        if ((rows == highest[:, None]) | (rows == 0)).all():
            yield dim, highest


def _pairs(roots: np.ndarray, elements: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of elements that meet channels of one set only, and a label of that set for each."""
    own, met = (part.numpy() for part in reduced(*torch.broadcast_tensors(elements, channels)))
    order = np.argsort(own, kind="stable")
    own, met = own[order], met[order]
    starts = np.flatnonzero(np.r_[True, own[1:] != own[:-1]]) if len(own) else np.empty(0, dtype=np.int64)
    sets = roots[met]
    low, high = (f.reduceat(sets, starts) if len(starts) else sets for f in (np.minimum, np.maximum))
    fit = low == high
    return torch.from_numpy(own[starts][fit]), torch.from_numpy(met[starts][fit])
