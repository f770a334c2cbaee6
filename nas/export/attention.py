"""Fused attention: torch.export and eager mode run different kernels, so the last bits of outputs differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nas.export.subject import run

TOLERANCE = 1e-6
"""Largest difference of an output, relative to the largest output."""

_LAYERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def fused_attention(network: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Dotted names of torch's attention layers, and of modules whose forward calls ``scaled_dot_product_attention``.

    `network` is in eval mode and runs once on the batch `inputs`.
    """
    with _Calls() as calls, ExitStack() as hooks:
        for module in network.modules():
            hooks.callback(module.register_forward_pre_hook(calls.enter).remove)
            hooks.callback(module.register_forward_hook(calls.leave).remove)
        run(network, [tensor.clone() for tensor in inputs])
    modules = network.named_modules()
    return [name for name, module in modules if isinstance(module, _LAYERS) or id(module) in calls.callers]


class _Calls(TorchFunctionMode):
    """Notes the ids of modules that call fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[int] = []
        self.callers: set[int] = set()

    def enter(self, module: nn.Module, _: Any) -> None:
        self.running.append(id(module))

    def leave(self, *_: Any) -> None:
        self.running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and self.running:
            self.callers.add(self.running[-1])
        return func(*args, **(kwargs or {}))
