"""The draws of a search: op weights for each batch, keyed by (seed, purpose, batch, part)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nas.bilevel import Level
from nas.io.rng import keyed_generator
from nas.paths import Paths
from nas.regularizers import ArchState, Regularizer
from nas.relaxations import OpWeights, Relaxation, Sampler
from nas.relaxations.base import check_per_sample
from nas.supernet.supernet import Supernet
from nas.tau import TauSchedule


@dataclass(frozen=True)
class Moment:
    """A point in a search: number of batches done, completed share of the search, whether alpha is frozen, and rank of the process."""

    batch: int
    progress: float
    warm_up: bool
    rank: int


@dataclass(frozen=True)
class Sampling:
    """Draws the op weights of a search, with the settings of :class:`nas.SearchModule`.

    A draw is a pure function of the point in the search, so that a resumed search repeats it.
    """

    supernet: Supernet
    relaxation: Relaxation
    tau: TauSchedule
    regularizers: Sequence[Regularizer]
    warmup_paths: Paths | None
    seed: int
    num_paths: int = 1
    noise: Literal["batch", "sample"] = "batch"
    noise_per_process: bool = False

    def __post_init__(self) -> None:
        name = type(self.relaxation).__name__
        if self.noise == "sample":
            check_per_sample(self.relaxation)
        if self.num_paths < 1:
            raise ValueError(f"num_paths must be at least 1, got {self.num_paths}")
        if self.num_paths > 1 and (self.noise == "sample" or self.relaxation.acts_after_arch_step):
            raise ValueError(f"num_paths must be 1 with {'noise: sample' if self.noise == 'sample' else name}")
        kind = self.supernet.distribution
        if not kind.is_factorised and self.relaxation.acts_after_arch_step:
            raise ValueError(f"{name} changes rows of alpha after a step; it needs alpha: nas.alpha.Factorised")
        for regularizer in self.regularizers:
            if regularizer.reads_rows and not kind.is_factorised:
                raise ValueError(
                    f"{type(regularizer).__name__} reads rows of alpha; it needs alpha: nas.alpha.Factorised"
                )
            if regularizer.needs_all_candidates and self.relaxation.num_active is not None:
                raise ValueError(
                    f"{type(regularizer).__name__} changes the weights of candidates that do not run under {name}"
                )

    def draw(self, split: Level, moment: Moment, batch_size: int, part: int = 0) -> OpWeights:
        """The op weights for part number `part` of a batch of a data split."""
        tau = self.tau(moment.progress)
        generator = self._generator("noise", split, moment, part)
        paths = self.warmup_paths
        if paths is not None and self.supernet.choices and self._on_path(paths, split, moment):
            index = moment.batch * self.num_paths + part
            candidates = paths.path(self.supernet.joint.at(tau), index, self.num_paths, self.seed)
            path = self.supernet.path(candidates)
            return path._replace(sampler=Sampler(self.relaxation, tau, generator))
        num_samples = batch_size if self.noise == "sample" else None
        sample = self.supernet.sample(self.relaxation, tau, generator=generator, num_samples=num_samples)
        if self.regularizers and self.supernet.choices:
            state = self.state(moment.progress)
            generator = self._generator("perturb", split, moment, part)
            for regularizer in self.regularizers:
                weights = regularizer.perturb(sample.weights, state, split, generator)
                sample = sample._replace(weights=weights)
            sample = sample._replace(weights=self.supernet.fill_input_rows(sample.weights))
        return sample

    @staticmethod
    def _on_path(paths: Paths, split: Level, moment: Moment) -> bool:
        return moment.warm_up or (paths.follows_alpha and split == "weight")

    def draw_paths(self, moment: Moment, num: int, part: int = 0) -> Tensor:
        """Independent paths from the distribution at the current tau, (num, E) int64."""
        joint = self.supernet.joint.at(self.tau(moment.progress))
        return joint.draw_paths(num, self._generator("paths", "arch", moment, part))

    def _generator(self, purpose: str, split: str, moment: Moment, part: int) -> torch.Generator:
        process = f"/process {moment.rank}" if self.noise_per_process and moment.rank else ""
        counters = (moment.batch, part) if part else (moment.batch,)
        return keyed_generator(self.seed, f"{purpose}/{split}{process}", *counters, device=self.supernet.alpha.device)

    def state(self, progress: float) -> ArchState:
        """The current state for regularizers."""
        alpha, mask = self.supernet.learned_alpha(), self.supernet.mask
        probabilities = self.supernet.joint._replace(rows=alpha).marginals(self.relaxation)
        return ArchState(self.supernet.choices, alpha, mask, probabilities, self.tau(progress), progress)

    def penalty(self, progress: float) -> Tensor:
        """The sum of the regularizers' penalties, a term of the loss of alpha."""
        total = self.supernet.alpha.new_zeros(())
        if self.regularizers and self.supernet.choices:
            state = self.state(progress)
            for regularizer in self.regularizers:
                term = regularizer.penalty(state)
                total = total if term is None else total + term
        return total
