"""What the seeds of a method chose, and how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nas.genotype import labels_of

ABSENT = "-"
"""The label of a choice that an architecture does not reach."""


class Chosen(NamedTuple):
    """One choice of a method.

    Attributes:
        name: The choice.
        labels: Its label for each seed.
        share: The share of seeds that chose the most frequent label.
    """

    name: str
    labels: list[str]
    share: float


def chosen_of(rows: Sequence[Mapping[str, Any]]) -> list[Chosen]:
    """The choices of the architectures in `rows`, the finished trials of one method."""
    names = dict.fromkeys(name for row in rows for name in row["genotype"])
    result = []
    for name in names:
        labels = [", ".join(labels_of(row["genotype"].get(name, ABSENT))) for row in rows]
        result.append(Chosen(name, labels, Counter(labels).most_common(1)[0][1] / len(labels)))
    return result
