"""PreTrainedModel of transformers with smaller layers: config.json has their sizes under "small".

Written by gumbel-nas; needs torch and transformers alone.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class Skip(nn.Module):
    """The place of a dropped block: returns its first argument."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The input."""
        return x


class SmallPreTrainedModel(PreTrainedModel):
    """PreTrainedModel with the sizes of its config."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        for path in config.small["dropped"]:
            self.set_submodule(path, Skip())
        for path, sizes in config.small["layers"].items():
            layer = self.get_submodule(path)
            for name, size in sizes.items():
                resize(layer, name, size)
        self.post_init()


def resize(layer: nn.Module, name: str, size: Any) -> None:
    """Cuts a tensor of a layer to its first elements, or sets a number."""
    old = getattr(layer, name)
    if isinstance(old, torch.Tensor):
        part = old.detach()[tuple(map(slice, size))].clone()
        setattr(layer, name, nn.Parameter(part, old.requires_grad) if isinstance(old, nn.Parameter) else part)
    else:
        setattr(layer, name, tuple(size) if isinstance(size, list) else size)
