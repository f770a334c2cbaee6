"""Op weights that are chosen and not drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nas.relaxations import OpWeights, Sampler

if TYPE_CHECKING:
    from nas.supernet.supernet import Supernet


def equal_shares(supernet: Supernet, sampler: Sampler | None) -> OpWeights:
    """Every candidate runs, each with an equal share."""
    share = supernet.mask / supernet.mask.sum(-1, keepdim=True).clamp_min(1)
    return OpWeights(supernet.fill_input_rows(share.to(supernet.alpha.dtype)).detach(), None, sampler)


def selected(supernet: Supernet, active: Mapping[str, Any], *, run_all: bool) -> OpWeights:
    """The active choices of one architecture; inactive choices take their first candidate."""
    weights = torch.zeros_like(supernet.alpha, requires_grad=False)
    first = []
    for row, (name, labels) in enumerate(supernet.choices.items()):
        value = active.get(name, labels[0])
        chosen = [labels.index(label) for label in ([value] if isinstance(value, str) else value)]
        weights[row, chosen] = 1.0
        first.append(chosen[:1])
    return OpWeights(weights, None if run_all or not supernet.choices else torch.tensor(first))


def on_path(supernet: Supernet, candidates: Sequence[int]) -> OpWeights:
    """Exactly one candidate of each choice runs."""
    index = torch.tensor(candidates, dtype=torch.int64)[:, None]
    weights = torch.zeros(supernet.alpha.shape).scatter_(1, index, 1.0).to(supernet.alpha)
    return OpWeights(supernet.fill_input_rows(weights.detach()), index, unit_weights=True)


@torch.no_grad()
def start_at_last(supernet: Supernet, logit: float) -> None:
    """Sets the logits of each choice to numbers that rise evenly from 0, at its first label, to `logit`, at its last label.

    With full widths and kept blocks last, as :func:`nas.convert` orders them, a search begins near the whole network.
    """
    for row, labels in zip(supernet.alpha, supernet.choices.values(), strict=True):
        row[: len(labels)] = torch.linspace(0.0, logit, len(labels))
