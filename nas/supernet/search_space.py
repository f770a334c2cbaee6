"""What a search space must say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from nas.genotype import Genotype
from nas.supernet.structure import argmax_choices


class CellEdge(NamedTuple):
    """An edge of a cell, for pictures.

    Attributes:
        source: The node it reads.
        target: The node it feeds.
        label: Its operation; empty where it only passes on.
    """

    source: str
    target: str
    label: str


class SearchSpace(ABC):
    """A family of networks, written as one network with choices in it.

    Attributes:
        inherits_weights: Whether a derived network can take the supernet's weights; otherwise it is always built afresh.
        counting_rule: How the number of architectures comes about, for people; empty where that is plain.
    """

    inherits_weights: bool = True
    counting_rule: str = ""

    @abstractmethod
    def network(self, stage: str = "search") -> nn.Module:
        """A freshly initialised network with choices (plain under :func:`nas.architecture`).

        Args:
            stage: ``"search"`` or ``"retrain"``; the retrained network may be larger.
        """

    def discretize(self, probabilities: Mapping[str, Mapping[str, float]]) -> Genotype:
        """Probabilities (choice name -> label -> probability) to a genotype; by default the most probable labels."""
        return Genotype(argmax_choices(probabilities))

    def check_genotype(self, choices: Mapping[str, Any]) -> None:  # noqa: B027  (most spaces take every architecture)
        """Raises ValueError for an architecture that makes no sense, such as a cell whose input reaches no output.

        Args:
            choices: The active choices.
        """

    def cells(self, choices: Mapping[str, Any]) -> Mapping[str, Sequence[CellEdge]]:
        """The graphs of an architecture's cells, for pictures; empty where a space has none.

        Args:
            choices: The active choices.

        Returns:
            Cell name -> edges; a node's incoming edges come before its outgoing ones.
        """
        return {}

    def parse_genotype(self, text: str) -> Genotype:
        """The genotype that a text of the space's published notation means.

        Raises:
            ValueError: The text is broken, or the space has no notation of its own.
        """
        raise ValueError(f"{type(self).__name__} has no notation of its own; give a genotype.json")
