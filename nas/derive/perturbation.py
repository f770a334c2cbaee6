"""What the supernet misses most."""

from __future__ import annotations

import random

import torch

from nas.costs.limits import most_probable
from nas.derive.base import DeriveStrategy, Searched
from nas.derive.fine_tuned import fine_tune
from nas.derive.inherited import InheritedScore
from nas.genotype import Genotype
from nas.io.rng import derive_seed, untouched_rng
from nas.relaxations import OpWeights
from nas.supernet.bound import BoundSupernet
from nas.supernet.modules import copied
from nas.supernet.structure import argmax_choices, find_rows
from nas.supernet.supernet import Supernet


class Perturbation(DeriveStrategy):
    """Decides one choice after the other: of each it keeps the candidate without which the supernet's loss on the arch half is largest.

    The supernet runs all candidates, weighted by their probabilities; so it suits searches that mix candidates, less those that train
    single paths. Limits are kept by the most probable architecture where the loss without a candidate stands for its logit.

    Args:
        num_steps: Batches on which the supernet is trained after each decision.
        lr: Highest learning rate meanwhile.
        num_batches: Batches of the arch half to judge by; null: all.

    Raises:
        ValueError: A number out of range.

    Source: Wang et al. 2021, "Rethinking Architecture Selection in Differentiable NAS" (DARTS-PT).

    Deviation: judged by loss instead of accuracy, which says more on few samples.
    """

    needs_alpha = False

    def __init__(self, num_steps: int = 0, lr: float = 0.01, num_batches: int | None = None) -> None:
        if num_steps < 0 or not lr > 0 or (num_batches is not None and num_batches < 1):
            raise ValueError(f"num_steps, lr or num_batches is out of range: {num_steps}, {lr}, {num_batches}")
        self.num_steps = num_steps
        self.lr = lr
        self.num_batches = num_batches

    def genotype(self, searched: Searched) -> Genotype:
        score = InheritedScore(searched, num_batches=self.num_batches)
        supernet, space = searched.supernet, searched.space
        weights = searched.relaxation.probabilities(supernet.alpha, supernet.mask).detach()
        worth = searched.probabilities()
        with untouched_rng():
            mixed = Mixed(copied(supernet), OpWeights(supernet.fill_input_rows(weights))).to(searched.device)
            for name in self._order(searched):
                row = list(supernet.choices).index(name)
                losses = {label: -score.of(mixed.without(row, k)) for k, label in self._labels(supernet, name)}
                logits = torch.tensor(list(losses.values()), dtype=torch.float64)
                worth[name] = dict.fromkeys(worth[name], 0.0) | dict(
                    zip(losses, torch.softmax(logits, 0).tolist(), strict=True)
                )
                mixed.decide(row, supernet.choices[name].index(max(losses, key=losses.__getitem__)))
                if self.num_steps:
                    with torch.enable_grad():
                        fine_tune(mixed, searched, num_steps=self.num_steps, lr=self.lr)
        found = supernet.prune(Genotype(argmax_choices(worth)), worth)
        if searched.allows(found.choices):
            return found
        return Genotype(most_probable(supernet.network, worth, searched.limits, space.check_genotype))

    def _order(self, searched: Searched) -> list[str]:
        """The choices that are drawn, in random order."""
        places = find_rows(searched.supernet.network)
        names = [name for name, place in places.items() if place.num_chosen == 1 and place.learned]
        random.Random(derive_seed(searched.seed, "derive")).shuffle(names)
        return names

    def _labels(self, supernet: Supernet, name: str) -> list[tuple[int, str]]:
        """Candidates that a genotype may have, with their columns."""
        place = find_rows(supernet.network)[name]
        return [(k, label) for k, label in enumerate(place.rows()[name]) if label not in place.search_only]


class Mixed(BoundSupernet):
    """A supernet of which one choice after the other is decided."""

    def without(self, row: int, column: int) -> Mixed:
        """The same without one candidate, the weights of its siblings scaled up to sum to 1; it shares the supernet."""
        weights = self.weights.clone()
        weights[row, column] = 0.0
        rest = self.supernet.mask[row].to(weights.dtype)
        rest[column] = 0.0
        weights[row] = weights[row] / weights[row].sum() if weights[row].sum() > 0 else rest / rest.sum()
        return Mixed(self.supernet, OpWeights(weights))

    def decide(self, row: int, column: int) -> None:
        """Gives all the weight of a choice to one candidate."""
        self.weights[row] = 0.0
        self.weights[row, column] = 1.0
