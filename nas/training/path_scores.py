"""Scores of paths that a search evaluates forward-only, remembered while the weights rest."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from nas.genotype import key_of
from nas.supernet.supernet import Supernet

Judge = Callable[[Mapping[str, Any]], float]
"""The loss on the arch split of an architecture with inherited weights."""


class Scored(NamedTuple):
    """An architecture that was scored: its choices, its loss on the arch split, and the number of batches done."""

    choices: dict[str, Any]
    loss: float
    batch: int


class PathScores:
    """Losses of paths; an architecture is evaluated once, for the weights do not change meanwhile.

    Attributes:
        judge: Evaluates an architecture; None: nothing can be scored.
        found: Key of an architecture -> what is known of it, in the order of evaluation.
    """

    def __init__(self, supernet: Supernet, judge: Judge | None = None) -> None:
        self.judge = judge
        self.found: dict[str, Scored] = {}
        self._supernet = supernet
        self._architectures: dict[tuple[int, ...], dict[str, Any]] = {}

    def __call__(self, path: Sequence[int], batch: int) -> float:
        """The path's loss.

        Raises:
            ValueError: There is no judge, or a loss is not above 0.
        """
        choices = self.architecture(path)
        key = key_of(choices)
        if key not in self.found:
            if self.judge is None:
                raise ValueError("paths cannot be scored without data: set SearchModule.scores.judge")
            self.found[key] = Scored(choices, self.judge(choices), batch)
        loss = self.found[key].loss
        if not loss > 0:
            raise ValueError(f"the log of a loss needs losses above 0, got {loss} for {key}")
        return loss

    def spread(self) -> float:
        """The standard deviation of the log losses found; 1 if they do not differ."""
        found = [math.log(entry.loss) for entry in self.found.values()]
        return statistics.pstdev(found) or 1.0 if found else 1.0

    def architecture(self, path: Sequence[int]) -> dict[str, Any]:
        """The active choices of a path."""
        name = tuple(path)
        if name not in self._architectures:
            equal = {choice: dict.fromkeys(all_labels, 1.0) for choice, all_labels in self._supernet.choices.items()}
            self._architectures[name] = dict(self._supernet.genotype_of(name, equal).choices)
        return self._architectures[name]

    def path_of(self, choices: Mapping[str, Any]) -> list[int]:
        """The path of an architecture; inactive choices take their first candidate."""
        return [list(labels).index(choices.get(name, labels[0])) for name, labels in self._supernet.choices.items()]

    def state_dict(self) -> list[list[Any]]:
        """The scored architectures, for a checkpoint."""
        return [[json.dumps(entry.choices), entry.loss, entry.batch] for entry in self.found.values()]

    def load_state_dict(self, state: Sequence[Sequence[Any]]) -> None:
        """Restores the scored architectures."""
        entries = [Scored(json.loads(choices), loss, batch) for choices, loss, batch in state]
        self.found = {key_of(entry.choices): entry for entry in entries}
