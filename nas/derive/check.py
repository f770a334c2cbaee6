"""Checks that a derived network equals the supernet with one-hot op weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nas.genotype import Genotype
from nas.io.rng import untouched_rng
from nas.supernet.modules import eval_mode
from nas.supernet.supernet import Supernet
from nas.tasks.values import named

TOLERANCE = 1e-5
"""Largest difference in float32, as a share of the largest output; sums run in another order. Half precision allows 64 roundings."""


@torch.no_grad()
def check_derived(
    supernet: Supernet, genotype: Genotype | Mapping[str, Any], inputs: Sequence[Any], *, run_all: bool = True
) -> None:
    """Compares the derived network with the supernet in eval mode; neither the supernet nor the random state changes.

    With `run_all`, the other candidates run with weight 0, to find candidates that change their input in place.

    Raises:
        ValueError: The outputs differ, because the derived network has lost a dependence of a layer on choices.
    """
    choices = genotype.choices if isinstance(genotype, Genotype) else genotype
    with untouched_rng(supernet.alpha.device):
        with eval_mode(supernet):
            expected = supernet(*inputs, op_weights=supernet.one_hot(choices, run_all=run_all))
        found = supernet.derive(choices).eval()(*inputs)
    difference = largest_difference(expected, found)
    if difference is not None:
        raise ValueError(
            f"the derived network differs from the supernet: {difference} for {dict(choices)}; a layer depends on channels, inputs "
            "or modules of choices in a way that cannot be derived"
        )


def largest_difference(expected: Any, found: Any) -> str | None:
    """The difference between two outputs, in words; None if they agree within `TOLERANCE`."""
    pairs = list(zip(_leaves(expected), _leaves(found), strict=False))
    if len(_leaves(expected)) != len(_leaves(found)):
        return "outputs have different numbers of tensors"
    for a, b in pairs:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            continue
        if a.shape != b.shape:
            return f"outputs have the shapes {tuple(a.shape)} and {tuple(b.shape)}"
        if not a.numel():
            continue
        rounding = 64 * torch.finfo(a.dtype).eps if a.is_floating_point() and a.dtype.itemsize < 4 else TOLERANCE
        largest = float(a.double().abs().nan_to_num(0.0, 0.0, 0.0).max())
        apart = (a.double() - b.double()).abs()
        same = (a == b) | (a.isnan() & b.isnan()) | (apart <= rounding * largest)
        if not bool(same.all()):
            return f"outputs differ by up to {float(apart[~same].max()):.2g} (largest output: {largest:.2g})"
    return None


def _leaves(output: Any) -> list[Any]:
    """The leaves of an output, and those of plain dataclasses, which torch takes for leaves."""
    return [part for leaf in tree_leaves(output) for part in tree_leaves(list(named(leaf).values()) or leaf)]
