"""Elements of outputs and targets, and lists of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def named(value: Any) -> dict[str, Any]:
    """Name -> element of a dict, dataclass or named tuple; empty for other values."""
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else {}


def element(value: Any, key: int | str, what: str = "the output") -> Any:
    """The element of a name, or of a position; raises ValueError if the value lacks it."""
    names: dict[Any, Any] = named(value)
    if names.get(key) is not None:
        return names[key]
    items = list(names.values()) or value
    if isinstance(key, int) and isinstance(items, (tuple, list)) and -len(items) <= key < len(items):
        return items[key]
    raise ValueError(f"{what} has no element {key!r}: it is {_described(value)}")


def tensor_of(value: Any, what: str) -> Tensor:
    """The value; raises ValueError if it is not a tensor."""
    if isinstance(value, Tensor):
        return value
    raise ValueError(
        f"{what} is {_described(value)} instead of a tensor; `output` of a task names one element, nas.tasks.Heads trains several"
    )


def _described(value: Any) -> str:
    kind = f"a {type(value).__name__}"
    if names := named(value):
        return f"{kind} of {', '.join(map(str, names))}"
    return f"{kind} of {len(value)}" if isinstance(value, (tuple, list)) else kind


def weights_of(name: str, weights: Sequence[float] | None, number: int) -> Tensor | None:
    """The weights as a tensor; raises ValueError if they are not `number` finite numbers above 0."""
    if weights is None:
        return None
    result = torch.tensor(weights)
    if len(result) != number or not bool(((result > 0) & result.isfinite()).all()):
        raise ValueError(f"{name} must be {number} finite numbers above 0, got {list(weights)}")
    return result
