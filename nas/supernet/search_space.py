"""The base class of search spaces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from nas.genotype import Genotype
from nas.supernet.structure import argmax_choices


class CellEdge(NamedTuple):
    """An edge of a cell, for drawings.

    Attributes:
        source: The node it reads.
        target: The node it feeds.
        label: Its operation; empty for an edge without an operation.
    """

    source: str
    target: str
    label: str


class SearchSpace(ABC):
    """Base class of search spaces. A space is a family of networks, written as one network with choices.

    Attributes:
        inherits_weights: Whether a derived network can inherit the supernet's weights; otherwise it is always built with new weights.
        counting_rule: A printed explanation of the number of architectures; empty if the number needs none.
    """

    inherits_weights: bool = True
    counting_rule: str = ""

    @abstractmethod
    def network(self, stage: str = "search") -> nn.Module:
        """A newly initialized network with choices (a plain network under :func:`nas.architecture`).

        Args:
            stage: ``"search"`` or ``"retrain"``; the retrained network may be larger.
        """

    def parent(self) -> nn.Module | None:
        """The trained network that the space started from, which can teach; None if there is none."""
        return None

    def discretize(self, probabilities: Mapping[str, Mapping[str, float]]) -> Genotype:
        """Converts probabilities (choice name -> label -> probability) to a genotype; by default the most probable labels."""
        return Genotype(argmax_choices(probabilities))

    def check_genotype(self, choices: Mapping[str, Any]) -> None:  # noqa: B027  (most spaces take every architecture)
        """Raises ValueError for an architecture that makes no sense, such as a cell whose input reaches no output.

        Args:
            choices: The active choices.
        """

    def cells(self, choices: Mapping[str, Any]) -> Mapping[str, Sequence[CellEdge]]:
        """The graphs of an architecture's cells, for drawings; empty if the space has no cells.

        Args:
            choices: The active choices.

        Returns:
            Cell name -> edges; a node's incoming edges come before its outgoing ones.
        """
        return {}

    def parse_genotype(self, text: str) -> Genotype:
        """Parses a genotype in the published notation of the space.

        Raises:
            ValueError: The text is invalid, or the space has no notation.
        """
        raise ValueError(f"{type(self).__name__} has no text notation; use a genotype.json")
