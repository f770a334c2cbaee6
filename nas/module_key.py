"""Keys of modules and calls that do the same work: equal keys, equal cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_PLAIN = (int, float, str, bool, bytes, type(None))


def module_key(module: nn.Module) -> str:
    """Types and plain attributes of a module and what is inside it, and the shapes of its tensors; values of weights do not matter."""
    lines = []
    for path, inner in module.named_modules():
        kind = type(inner)
        attributes = {
            key: _plain(value) for key, value in vars(inner).items() if not key.startswith("_") and key != "training"
        }
        lines.append(f"{path}:{kind.__module__}.{kind.__qualname__}:{attributes}")
    tensors = [*module.named_parameters(), *module.named_buffers()]
    lines += [f"{name}:{tuple(t.shape)}:{t.dtype}:{t.requires_grad}" for name, t in tensors]
    return "\n".join(lines)


def call_key(arguments: Any) -> str:
    """Structure, shapes and dtypes of a call's arguments."""
    return repr(_plain(arguments))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), str(value.dtype), str(value.device))
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    kind = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
