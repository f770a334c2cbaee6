"""The base class of distributions over architectures, and the distribution of independent choices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Alpha(nn.Module, ABC):
    """How the logits of a choice depend on the candidates of the choices before it.

    The supernet owns a row of logits for each choice, its parameter ``alpha``; a subclass may add parameters. :class:`nas.alpha.Joint` has
    the distribution over architectures that follows.

    Attributes:
        is_factorised: Whether the choices are independent, so that all are drawn at once.
    """

    is_factorised = False

    def build(self, num_candidates: Sequence[int]) -> None:
        """Makes the parameters for choices with so many candidates; the supernet calls it once."""

    @abstractmethod
    def conditional(self, rows: Tensor, row: int, earlier: Tensor) -> Tensor:
        """The logits of choice number `row`, given the samples of the choices before it.

        Shape:
            - rows: (E, K)
            - earlier: (..., row, K), one-hot or relaxed
            - result: (..., K)
        """


class Factorised(Alpha):
    """Independent choices: a row of logits each."""

    is_factorised = True

    def conditional(self, rows: Tensor, row: int, earlier: Tensor) -> Tensor:
        return rows[row].expand(*earlier.shape[:-2], -1)
