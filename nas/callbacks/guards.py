"""Guards against collapse: they log, warn, score architectures, and stop a search that has converged."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nas.callbacks.writers import write_scalars
from nas.derive import discretized
from nas.derive.skips import skip_share, skips_of
from nas.io.errors import describe
from nas.training.arch_statistics import entropy_share
from nas.training.search_module import SearchModule

Judge = Callable[[SearchModule, Mapping[str, Any]], float]
"""The score of an architecture on the arch split; higher is better."""

NUM_JUDGED = 20
"""Largest number of times that a search scores its most probable architecture."""


@dataclass(frozen=True, kw_only=True)
class GuardOptions:
    """Guards against collapse.

    Attributes:
        max_skip_share: Largest share of skip connections in a derived architecture, among the choices with a skip candidate. Applies to
            spaces with at least four such choices. If the share is larger, another architecture is derived and reported. 1: no limit.
        stable_epochs: Stop the search if the most probable architecture has not changed for this number of epochs and the entropy is at
            most `settled_entropy`; 0: never.
        settled_entropy: Mean entropy of a converged search, as a share of its maximum.
        early_entropy: Warn if the mean entropy falls below this share of its maximum in the first third of the epochs that train alpha;
            0: never.
    """

    max_skip_share: float = 1.0
    stable_epochs: int = 20
    settled_entropy: float = 0.01
    early_entropy: float = 0.1

    def __post_init__(self) -> None:
        """Checks the ranges; raises ValueError."""
        for name in ("max_skip_share", "settled_entropy", "early_entropy"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"guards: {name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.stable_epochs < 0:
            raise ValueError(f"guards: stable_epochs must be at least 0, got {self.stable_epochs}")


class Guards(Callback):
    """Checks alpha after every epoch that trains alpha. Checkpoints contain the state, so a resumed search stops at the same batch.

    Args:
        options: The limits.
        judge: Scores architectures; None: no architecture is scored.

    Attributes:
        seen: The most probable architectures so far, with batch and score.
        stable: Number of epochs since the most probable architecture changed.
        collapsed_at: Batch of the warning about low entropy; None: no warning.
        stopped_at: Batch at which the guards stopped the converged search; None: not stopped.
    """

    def __init__(self, options: GuardOptions, judge: Judge | None = None) -> None:
        self.options = options
        self.judge = judge
        self.seen: list[dict[str, Any]] = []
        self.stable = 0
        self.collapsed_at: int | None = None
        self.stopped_at: int | None = None
        self._present: dict[str, Any] | None = None
        self._judged_at = -math.inf

    def state_dict(self) -> dict[str, Any]:
        names = ("seen", "stable", "collapsed_at", "stopped_at", "_present", "_judged_at")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.stopped_at is not None:
            trainer.should_stop = True

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not pl_module.arch_moves or not pl_module.supernet.choices:
            return
        choices = dict(discretized(pl_module.supernet, pl_module.relaxation, pl_module.space).choices)
        self.stable = self.stable + 1 if choices == self._present else 0
        self._present = choices
        left = entropy_share(pl_module.entropies(), pl_module.supernet.choices)
        self._watch_entropy(trainer, pl_module, left)
        self._judge(trainer, pl_module, choices)
        share = skip_share(skips_of(pl_module.supernet.network), choices)
        row: dict[str, float | None] = {"guard/skip_share": share, "guard/stable_epochs": float(self.stable)}
        row["guard/best_so_far"] = max((entry["score"] for entry in self.seen), default=None)
        write_scalars(trainer, row, pl_module.num_batches_done)
        if self.options.stable_epochs and self.stable >= self.options.stable_epochs and left is not None:
            if left <= self.options.settled_entropy:
                self.stopped_at = pl_module.num_batches_done
                trainer.should_stop = True

    def _watch_entropy(self, trainer: pl.Trainer, module: SearchModule, left: float | None) -> None:
        first = module.warmup_epochs
        done = (trainer.current_epoch + 1 - first) / max(1, int(trainer.max_epochs or 1) - first)
        if left is None or done > 1 / 3 or left >= self.options.early_entropy or self.collapsed_at is not None:
            return
        self.collapsed_at = module.num_batches_done
        warnings.warn(
            f"the entropy of alpha has fallen to {left:.1%} of its maximum within the first third of the search, before the weights "
            "were trained; use a lower arch learning rate, a longer warm-up or a higher tau",
            stacklevel=2,
        )

    def _judge(self, trainer: pl.Trainer, module: SearchModule, choices: dict[str, Any]) -> None:
        if self.judge is None or any(entry["choices"] == choices for entry in self.seen):
            return
        if trainer.current_epoch - self._judged_at < int(trainer.max_epochs or 1) / NUM_JUDGED:
            return
        try:
            module.space.check_genotype(choices)
        except ValueError:
            return
        self._judged_at = trainer.current_epoch
        try:
            score = self.judge(module, choices)
        except Exception as error:  # a failing guard must not end a long search
            warnings.warn(f"the current architecture cannot be scored: {describe(error)}", stacklevel=2)
            self.judge = None
            return
        self.seen.append({"choices": choices, "batch": module.num_batches_done, "score": score})
