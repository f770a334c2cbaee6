"""The base class of distributions over architectures, and the distribution of independent choices."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.relaxations.base import Tau


class Alpha(nn.Module, ABC):
    """How the logits of a choice depend on the candidates of the choices before it.

    The supernet owns a row of logits for each choice, its parameter ``alpha``; a subclass may add parameters. :class:`nas.alpha.Joint` has
    the distribution over architectures that follows.

    Attributes:
        is_factorised: Whether the choices are independent, so that all are drawn at once.
        temperature: The tau at which probabilities, entropies and modes are read: that of the draws of
            :class:`nas.bilevel.ScoreFunction`, otherwise 1.
    """

    is_factorised = False

    def __init__(self) -> None:
        super().__init__()
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))
        self.register_load_state_dict_pre_hook(_add_temperature)

    def build(self, num_candidates: Sequence[int]) -> None:
        """Makes the parameters for choices with so many candidates; the supernet calls it once."""

    @abstractmethod
    def conditional(self, rows: Tensor, row: int, earlier: Tensor, tau: Tau) -> Tensor:
        """The logits of choice number `row`, given the samples of the choices before it; their softmax at `tau` has the probabilities.

        Shape:
            - rows: (E, K)
            - earlier: (..., row, K), one-hot or relaxed
            - result: (..., K)
        """


class Undirected(Alpha):
    """A distribution whose :meth:`conditional` sums over all paths of later choices, so that large spaces are swept choice by choice."""

    @abstractmethod
    def path_logits(self, rows: Tensor, paths: Tensor) -> Tensor:
        """The logits of whole paths.

        Shape:
            - rows: (E, K)
            - paths: (P, E) int64
            - result: (P,)
        """

    @abstractmethod
    def full_conditional(self, rows: Tensor, row: int, hot: Tensor) -> Tensor:
        """The logits of choice number `row`, given the candidates of all other choices.

        Shape:
            - rows: (E, K)
            - hot: (..., E, K) one-hot
            - result: (..., K)
        """


class Factorised(Alpha):
    """Independent choices: a row of logits each."""

    is_factorised = True

    def conditional(self, rows: Tensor, row: int, earlier: Tensor, tau: Tau) -> Tensor:
        return rows[row].expand(*earlier.shape[:-2], -1)


@functools.lru_cache(maxsize=64)
def all_paths(num_candidates: tuple[int, ...], device: torch.device) -> Tensor:
    """Every path: one candidate of each choice, (N, E) int64."""
    ranges = [torch.arange(size, device=device) for size in num_candidates]
    return torch.cartesian_prod(*ranges).reshape(-1, len(ranges))


def _add_temperature(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A pre-hook of ``load_state_dict``: older checkpoints were all read at tau 1."""
    state_dict.setdefault(prefix + "temperature", torch.ones(()))
