"""Keys of modules and calls: equal keys mean equal cost."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (int, float, str, bool, bytes, type(None))
MAX_DEPTH = 6
_OF_TORCH = frozenset(vars(nn.Module()))


def module_key(module: nn.Module) -> str:
    """Types, plain attributes and tensor shapes of a module and its submodules, without the values of weights."""
    lines = []
    for path, inner in module.named_modules():
        kind = type(inner)
        attributes = {key: _plain(value) for key, value in vars(inner).items() if key not in _OF_TORCH}
        lines.append(f"{path}:{kind.__module__}.{kind.__qualname__}:{attributes}")
    tensors = [*module.named_parameters(), *module.named_buffers()]
    lines += [f"{name}:{tuple(t.shape)}:{t.dtype}:{t.requires_grad}" for name, t in tensors]
    return "\n".join(lines)


def call_key(arguments: Any) -> str:
    """Structure, shapes and dtypes of the arguments of a call."""
    return repr(_plain(arguments))


def _plain(value: Any, depth: int = 0) -> Any:
    """A value in a form that is equal in all processes."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), str(value.dtype), str(value.device))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    if depth > MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(_plain(item, depth + 1)) for item in value)
    if isinstance(value, FunctionType):
        code = value.__code__
        cells = [_plain(cell.cell_contents, depth + 1) for cell in value.__closure__ or ()]
        constants = [_plain(constant, depth + 1) for constant in code.co_consts]
        return [value.__qualname__, code.co_code.hex(), constants, code.co_names, cells]
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return getattr(value, "__qualname__", _kind(value))
    return [_kind(value), _plain(vars(value), depth + 1)]


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
