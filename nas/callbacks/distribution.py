"""The most probable architectures over the course of a search."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nas.derive.base import NUM_LISTED
from nas.training.search_module import SearchModule

NUM_MOMENTS = 100
"""Largest number of moments that are kept."""


class DistributionHistory(Callback):
    """Notes how probability concentrates on architectures. Checkpoints contain the history.

    Attributes:
        moments: In chronological order: ``batch``, ``entropy`` of the joint distribution (nats), and ``most_probable``, the choices and
            probability of up to `NUM_LISTED` paths.
    """

    def __init__(self) -> None:
        self.moments: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.moments[:] = state_dict["moments"]  # others read the same list

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        num_epochs = int(trainer.max_epochs or 1)
        every = math.ceil(max(1, num_epochs - pl_module.warmup_epochs) / NUM_MOMENTS)
        if pl_module.describes_joint and pl_module.arch_moves and (num_epochs - trainer.current_epoch - 1) % every == 0:
            self.moments.append(moment_of(pl_module))


def moment_of(module: SearchModule) -> dict[str, Any]:
    """The present entropy and most probable architectures."""
    joint = module.supernet.joint
    paths, probabilities = joint.most_probable(NUM_LISTED)
    listed = zip(paths.tolist(), probabilities.tolist(), strict=True)
    return {
        "batch": module.num_batches_done,
        "entropy": joint.entropy()[0],
        "most_probable": [
            {"choices": module.scores.architecture(path), "probability": value} for path, value in listed
        ],
    }
