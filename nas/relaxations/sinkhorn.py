"""The Gumbel-Sinkhorn relaxation: permutations instead of choices."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from nas.relaxations.base import Relaxation, Tau, checked_tau, gumbel_noise, masked_logits, replace_gradient


class GumbelSinkhorn(Relaxation):
    """A relaxed permutation matrix: ``sinkhorn((logits + Gumbel noise) / tau)``, rows and columns on the simplex.

    For square logits that a network computes itself (``nas.sample``): the score of element i at position j.

    Args:
        num_iterations: Normalizations of columns and rows, at least 1. Sums of rows are 1; sums of columns approach 1 with more iterations.
        hard: A permutation matrix in the forward pass, with the gradient of the relaxed matrix (straight-through).

    Raises:
        ValueError: num_iterations is below 1.

    Source: Mena et al. 2018, "Learning Latent Permutations with Gumbel-Sinkhorn Networks".
    """

    def __init__(self, num_iterations: int = 20, hard: bool = False) -> None:
        super().__init__()
        if num_iterations < 1:
            raise ValueError(f"GumbelSinkhorn: num_iterations must be at least 1, got {num_iterations}")
        self.num_iterations = num_iterations
        self.hard = hard

    def forward(
        self, logits: Tensor, tau: Tau, *, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        logits = self._checked(logits, mask)
        scores = (logits + gumbel_noise(logits, generator)) / checked_tau(tau)
        soft = sinkhorn(scores, self.num_iterations)
        return replace_gradient(hard_permutation(scores), soft) if self.hard else soft

    def probabilities(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        return sinkhorn(self._checked(logits, mask), self.num_iterations)

    def _checked(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and not bool(mask.all()):
            raise ValueError("GumbelSinkhorn takes no mask")
        if logits.dim() < 2 or logits.shape[-1] != logits.shape[-2]:
            raise ValueError(f"GumbelSinkhorn takes square logits (..., n, n), got {tuple(logits.shape)}")
        return masked_logits(logits, None)


def sinkhorn(scores: Tensor, num_iterations: int = 20) -> Tensor:
    """Normalizes columns and rows of ``exp(scores)`` in turn, in log space: approaches a doubly stochastic matrix.

    Args:
        scores: Any finite numbers.
        num_iterations: Number of normalizations of columns and rows.

    Shape:
        - scores, result: (..., n, n); rows of the result sum to 1

    Source: Sinkhorn 1964, "A relationship between arbitrary positive matrices and doubly stochastic matrices".
    """
    for _ in range(num_iterations):
        scores = scores.log_softmax(-2).log_softmax(-1)
    return scores.exp()


@torch.no_grad()
def hard_permutation(scores: Tensor) -> Tensor:
    """The permutation matrix with the largest total score: the limit of :func:`sinkhorn` as tau approaches 0.

    Shape:
        - scores, result: (..., n, n)

    Source: Kuhn 1955, "The Hungarian method for the assignment problem", as implemented in scipy.
    """
    result = torch.zeros_like(scores)
    shape = scores.shape[:-2].numel(), *scores.shape[-2:]
    flat, squares = result.view(shape), scores.detach().reshape(shape).cpu().numpy()
    for i, square in enumerate(squares):
        rows, columns = linear_sum_assignment(square, maximize=True)
        flat[i, torch.from_numpy(rows), torch.from_numpy(columns)] = 1.0
    return result
