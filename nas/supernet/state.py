"""The names and labels of a supernet's choices, kept in its state dict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Choices = Mapping[str, Sequence[str]]


def encoded(choices: Choices) -> Tensor:
    """Names and labels as a uint8 tensor of JSON text, so that tensor-only formats can hold them."""
    return torch.tensor(list(json.dumps(choices).encode()), dtype=torch.uint8)


def check_choices(module: Any, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """A pre-hook of ``load_state_dict``: raises ValueError if names or labels of the choices, or their order, differ."""
    state = state_dict.get(prefix + "_extra_state")
    if state is None:
        return
    saved: Choices = json.loads(bytes(state.tolist()).decode())
    own = {name: list(labels) for name, labels in module.choices.items()}
    for name in [*own, *saved]:
        if saved.get(name) != own.get(name):
            raise ValueError(
                f"state_dict is of a supernet with other choices: {name!r} has labels "
                f"{saved.get(name, 'none')} in the state_dict, {own.get(name, 'none')} in this supernet"
            )
    if list(saved) != list(own):
        raise ValueError(f"state_dict has the choices in another order: {list(saved)}, expected {list(own)}")
