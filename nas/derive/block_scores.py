"""Scores every candidate alone, and adds the scores up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nas.costs.limits import cheapest
from nas.costs.table import CostTable, Term
from nas.derive.base import DeriveStrategy, Searched
from nas.derive.fine_tuned import tuned_score
from nas.derive.inherited import InheritedScore
from nas.derive.pool import pruned
from nas.genotype import Genotype
from nas.supernet.structure import find_rows


class BlockScores(DeriveStrategy):
    """Scores every label alone in the full network, and takes the architecture within the limits with the best sum of scores.

    The full network has the last label of each choice: the trained network of a converted space. The score of a label is the rise of the
    loss on the arch split if one choice of the full network gets this label, with inherited weights. An exact program then minimizes the
    sum within the limits. A search keeps its scores in the run folder, so ``nas derive --limit`` solves again in seconds.

    Choices that are inactive in the full network do not count.

    Args:
        num_batches: Batches of each split to evaluate; null: all.
        num_steps: Number of batches that train each network before its score, which then counts what training recovers.
        lr: Peak learning rate of this training.

    Raises:
        ValueError: A number out of range.

    Source: Bercovich et al. 2024, "Puzzle: Distillation-Based NAS for Inference-Optimized LLMs".

    Deviation: a block is scored by the loss of the task; with :class:`nas.tasks.Distillation`, by the distance to the parent.
    """

    needs_alpha = False

    def __init__(self, num_batches: int | None = None, num_steps: int = 0, lr: float = 0.001) -> None:
        if num_steps < 0 or not lr > 0 or (num_batches is not None and num_batches < 1):
            raise ValueError(f"num_batches, num_steps or lr is out of range: {num_batches}, {num_steps}, {lr}")
        self.num_batches, self.num_steps, self.lr = num_batches, num_steps, lr

    def check(self, searched: Searched) -> None:
        several = [name for name, place in find_rows(searched.supernet.network).items() if place.num_chosen > 1]
        if several:
            raise ValueError(f"BlockScores needs choices of one label, but {several[0]!r} keeps several inputs")

    def genotype(self, searched: Searched) -> Genotype:
        network, check = searched.supernet.network, searched.space.check_genotype
        return Genotype(cheapest(network, self.table(searched), searched.limits, check))

    def table(self, searched: Searched) -> CostTable:
        """The loss of the full network, and the rise of the loss for each label: from `searched.kept` if the scores are there."""
        key = f"block scores, {self.num_batches} batches, {self.num_steps} steps, lr {self.lr}"
        if key not in searched.kept:
            searched.kept[key] = self._scored(searched).to_json()
        return CostTable.from_json(searched.kept[key])

    def _scored(self, searched: Searched) -> CostTable:
        untrained = InheritedScore(searched, num_batches=self.num_batches)
        trained = partial(tuned_score, untrained, num_steps=self.num_steps, lr=self.lr)
        score: Callable[[Any], float] = trained if self.num_steps else untrained
        places = find_rows(searched.supernet.network)
        rows = {name: place.derivable(place.rows()[name]) for name, place in places.items()}
        last = {name: labels[-1] for name, labels in rows.items()}
        full = pruned(searched, last)
        others = [(name, label) for name in full for label in rows[name] if label != full[name]]
        best = score(full)
        terms = []
        for name, label in others:
            rise = best - score(pruned(searched, {**last, name: label}))
            terms.append(Term({name: frozenset({label})}, rise))
            searched.on_progress(len(terms), len(others))
        return CostTable("loss", -best, tuple(terms))
