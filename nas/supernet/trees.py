"""Mixtures of outputs that are not one tensor: tuples, lists and dicts, as recurrent layers and attention return them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from nas.ops import mix

_PLAIN = (bool, int, float, str, type(None))


def form_of(output: Any) -> Any:
    """The shape of a tensor, or the structure of an output with the shapes of its tensors; outputs of equal form can be mixed."""
    return tuple(output.shape) if isinstance(output, Tensor) else tree_map(_form_of_leaf, output)


def _form_of_leaf(leaf: Any) -> Any:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf


def odd_leaf(output: Any) -> Any:
    """The first part of an output that is neither a tensor nor a plain value, and so cannot be mixed; None if there is none."""
    return next((leaf for leaf in tree_leaves(output) if not isinstance(leaf, (Tensor, *_PLAIN))), None)


def difference(forms: Mapping[str, Any]) -> tuple[str, str] | None:
    """Whether forms of outputs, by label, differ in "shape" or in "form", and a text of all; None if they are equal."""
    first = next(iter(forms.values()), None)
    if all(form == first for form in forms.values()):
        return None
    shapes = all(isinstance(form, tuple) and all(isinstance(size, int) for size in form) for form in forms.values())
    return "shape" if shapes else "form", ", ".join(f"{label}: {form}" for label, form in forms.items())


def mix_trees(outputs: Sequence[Any], weights: Tensor) -> Any:
    """The op-weighted sum of each tensor in outputs of equal form; other parts are equal."""
    flat = [tree_flatten(output) for output in outputs]
    leaves = [
        mix(list(column), weights) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*(leaves for leaves, _ in flat), strict=True)
    ]
    return tree_unflatten(leaves, flat[0][1])


def versions_of(item: Any) -> list[int]:
    """The version counters of all tensors in tuples, lists and dicts, except inference tensors, which have no counter."""
    if torch.compiler.is_compiling():
        return []
    tensors = [leaf for leaf in tree_leaves(item) if isinstance(leaf, Tensor)]
    return [tensor._version for tensor in tensors if not tensor.is_inference()]
