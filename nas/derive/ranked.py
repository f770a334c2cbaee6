"""Ranks architectures with inherited weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nas.derive.argmax import Argmax
from nas.derive.base import DeriveStrategy, Searched
from nas.derive.inherited import InheritedScore
from nas.derive.pool import candidates
from nas.derive.smoothing import smoothed
from nas.genotype import Genotype


class Ranked(DeriveStrategy):
    """Ranks architectures by their loss on the arch split, with inherited weights and recalibrated batch norms.

    Ranks all architectures of a small space, or a sample from the learned distribution of a larger space.

    Args:
        num: Largest number of architectures to rank.
        refit_head: Refit the head for each architecture; the last layer must be linear.
        smooth: Smooth the logs of the losses over architectures that share pairs of labels.
        num_batches: Batches of each split to evaluate; null: all.

    Raises:
        ValueError: A number out of range.

    Source: Bender et al. 2018, "Understanding and Simplifying One-Shot Architecture Search"; Guo et al. 2020, "Single Path One-Shot Neural
    Architecture Search with Uniform Sampling" (recalibration).

    Deviation: the head may be refitted for each architecture, and scores are smoothed over pairs of labels.
    """

    needs_alpha = False

    def __init__(
        self, num: int = 128, refit_head: bool = False, smooth: bool = True, num_batches: int | None = None
    ) -> None:
        if num < 1 or (num_batches is not None and num_batches < 1):
            raise ValueError(f"num and num_batches must be at least 1, got {num} and {num_batches}")
        self.num = num
        self.refit_head = refit_head
        self.smooth = smooth
        self.num_batches = num_batches

    def check(self, searched: Searched) -> None:
        if self.refit_head:
            Ranked(refit_head=True, num_batches=1).scorer(searched)(Argmax().genotype(searched).choices)

    def genotype(self, searched: Searched) -> Genotype:
        return Genotype(self.ranking(searched)[0][0])

    def scorer(self, searched: Searched) -> InheritedScore:
        """The function that scores an architecture."""
        return InheritedScore(searched, refit_head=self.refit_head, num_batches=self.num_batches)

    def ranking(self, searched: Searched) -> list[tuple[dict[str, Any], float]]:
        """Architectures and their scores, best first."""
        score = self.scorer(searched)
        pool = candidates(searched, self.num)
        scores = []
        for choices in pool:
            scores.append(score(choices))
            searched.on_progress(len(scores), len(pool))
        if self.smooth:
            scores = smoothed(pool, logs(scores))
        return sorted(zip(pool, scores, strict=True), key=lambda pair: -pair[1])


def logs(scores: Sequence[float]) -> list[float]:
    """Negative logs of the losses of which `scores` are the negatives, since the noise of a loss grows with it.

    Scores do not change if a loss is not above 0.
    """
    return [-math.log(-score) for score in scores] if all(score < 0 for score in scores) else list(scores)
