"""Checks of batches and checkpoints for NaN and infinity."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

_GRADIENT = "gradient"


class BatchCheck:
    """Checks the losses and gradients of one batch together, so that a GPU synchronizes once.

    With `may_skip`, the buffers (batch-norm statistics) of a skipped batch can be restored.

    Attributes:
        skipped: Name of the tensor that caused the batch to be skipped; None if the batch is not skipped.
    """

    def __init__(self, module: nn.Module, may_skip: bool) -> None:
        self.skipped: str | None = None
        self._module = module
        self._buffers = [buffer.clone() for buffer in module.buffers()] if may_skip else []
        self._watched: dict[str, Tensor] = {}

    def watch(self, name: str, tensor: Tensor) -> None:
        """Adds a tensor to the check."""
        self._watched[name] = tensor.detach()

    def watch_gradient(self, norm: Tensor) -> None:
        """Adds the norm of a gradient to the check."""
        self._watched[_GRADIENT] = norm + self._watched.get(_GRADIENT, 0.0)

    def first_bad(self) -> str | None:
        """Name of the first watched tensor that is not finite; for a gradient, with the name of its parameter."""
        if not self._watched:
            return None
        sums = torch.stack([value.double().sum() for value in self._watched.values()])
        if bool(torch.isfinite(sums).all()):
            return None
        bad = [name for name, total in zip(self._watched, sums.tolist(), strict=True) if total - total != 0]
        if others := [name for name in bad if name != _GRADIENT]:
            return others[0]
        gradients = {name: p.grad for name, p in self._module.named_parameters() if p.grad is not None}
        # None if each gradient is finite and only the square of the norm overflows
        return next(
            (f"gradient of {name}" for name, grad in gradients.items() if not bool(grad.isfinite().all())), None
        )

    def undo(self) -> None:
        """Restores the buffers and forgets the watched tensors."""
        for buffer, before in zip(self._module.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        self._watched = {}


def weights_not_finite(module: nn.Module) -> str | None:
    """Name of the first parameter or batch-norm statistic that is not finite."""
    named: Mapping[str, Tensor] = {
        **dict(module.named_parameters()),
        **{
            f"{path}.{name}": buffer
            for path, norm in module.named_modules()
            if isinstance(norm, _NormBase)
            for name, buffer in norm.named_buffers()
        },
    }
    sums = [tensor.detach().sum(dtype=torch.float64) for tensor in named.values()]
    finite = torch.isfinite(torch.stack(sums)) if sums else torch.ones(0)
    return None if bool(finite.all()) else list(named)[int((~finite.bool()).nonzero()[0])]
