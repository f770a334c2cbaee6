"""Keeps the candidate ops whose removal hurts the supernet most; see examples/perturbation."""

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
    """Decides the choices one after the other. Keeps the candidate op whose removal increases the loss on the arch split most.

    In our measurements, this strategy was worse than random search of equal cost. The supernet runs all candidates, weighted by their
    probabilities. The strategy therefore suits searches that mix candidates better than searches that train single paths. With limits, the
    strategy takes the most probable architecture within the limits; the logit of a candidate is then the loss without the candidate.

    Args:
        num_steps: Number of batches that train the supernet after each decision.
        lr: Peak learning rate of this training.
        num_batches: Batches of the arch split to evaluate; null: all.

    Raises:
        ValueError: A number out of range.

    Source: Wang et al. 2021, "Rethinking Architecture Selection in Differentiable NAS" (DARTS-PT).

    Deviation: uses the loss instead of the accuracy, because the loss is more informative on few samples.
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
        weights = supernet.probability_rows(searched.relaxation).detach()
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
        """The names of the choices to decide, in random order."""
        places = find_rows(searched.supernet.network)
        names = [name for name, place in places.items() if place.num_chosen == 1 and place.learned]
        random.Random(derive_seed(searched.seed, "derive")).shuffle(names)
        return names

    def _labels(self, supernet: Supernet, name: str) -> list[tuple[int, str]]:
        """Columns and labels of the candidates that a genotype may have."""
        place = find_rows(supernet.network)[name]
        return [(k, label) for k, label in enumerate(place.rows()[name]) if label not in place.search_only]


class Mixed(BoundSupernet):
    """A supernet whose choices are decided one after the other."""

    def without(self, row: int, column: int) -> Mixed:
        """The same supernet without one candidate; the weights of the other candidates are scaled to sum to 1."""
        weights = self.weights.clone()
        weights[row, column] = 0.0
        rest = self.supernet.mask[row].to(weights.dtype)
        rest[column] = 0.0
        weights[row] = weights[row] / weights[row].sum() if weights[row].sum() > 0 else rest / rest.sum()
        return Mixed(self.supernet, OpWeights(weights))

    def decide(self, row: int, column: int) -> None:
        """Gives the whole weight of a choice to one candidate."""
        self.weights[row] = 0.0
        self.weights[row, column] = 1.0
