"""Sorting by gradient: relaxed permutation matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.layers.base import check
from nas.relaxations import GumbelSinkhorn, Relaxation, hard_permutation
from nas.relaxations.base import Tau, at_least_float32, checked_tau
from nas.supernet.sampling import present_sampler


class SoftSort(nn.Module):
    """Turns scores of elements for places into a relaxed permutation matrix; :func:`permute` applies the matrix to values.

    In training inside a supernet, the matrix is drawn by the layer's own relaxation, at the supernet's tau and with its generator. The
    relaxation of the supernet is for choices and other draws. In training elsewhere, the matrix has no noise: ``sinkhorn(scores / tau)``.
    In eval mode, it is the permutation matrix with the largest total score, and has no gradient.

    ``SoftSort()(place_scores(keys))`` sorts keys. A network may also score each element for each place itself.

    Args:
        relaxation: Draws the matrix. ``GumbelSinkhorn(hard=True)`` draws permutations, with the gradient of the relaxed matrix. None:
            ``GumbelSinkhorn()``.
        tau: Temperature outside of a supernet in units of the scores, above 0. It may be set at any time. A low tau needs more
            ``num_iterations`` of the relaxation.

    Shape:
        - scores: (..., n, n), of element i at place j; minus infinity forbids a place
        - result: (..., n, n), rows on the simplex; float32 (float64 for float64 scores)

    Raises:
        ValueError: The scores are not square, or, on a CPU, hold NaN or plus infinity, or, in eval mode, forbid every permutation.

    Source: Mena et al. 2018, "Learning Latent Permutations with Gumbel-Sinkhorn Networks".
    """

    def __init__(self, relaxation: Relaxation | None = None, tau: Tau = 1.0) -> None:
        super().__init__()
        self.relaxation = GumbelSinkhorn() if relaxation is None else relaxation
        self.tau = tau

    def forward(self, scores: Tensor) -> Tensor:
        """Draws a relaxed permutation matrix; see the class for shapes."""
        if scores.dim() < 2 or scores.shape[-1] != scores.shape[-2]:
            raise ValueError(f"SoftSort: scores must have shape (..., n, n), got {tuple(scores.shape)}")
        scores = at_least_float32(scores)
        check(scores < torch.inf, "SoftSort: scores hold NaN or plus infinity")
        if not self.training:
            try:
                return hard_permutation(scores)
            except ValueError:  # scipy: the cost matrix is infeasible
                raise ValueError("SoftSort: scores of minus infinity forbid every permutation") from None
        sampler = present_sampler()
        if sampler is None:
            return self.relaxation.probabilities(scores / checked_tau(self.tau))
        return self.relaxation(scores, sampler.tau, generator=sampler.generator)


def place_scores(keys: Tensor, descending: bool = False) -> Tensor:
    """Scores for places under which the best permutation sorts the keys: the product of each key and the number of the place.

    Exchanging two neighbors changes the total score by the difference of their keys, so tau is in units of the keys.

    Args:
        keys: One number for each element.
        descending: The largest key comes first.

    Shape:
        - keys: (..., n)
        - result: (..., n, n), of element i at place j

    Source: Hardy, Littlewood and Polya 1934, "Inequalities", theorem 368; Cuturi et al. 2019, "Differentiable Ranking and Sorting using
    Optimal Transport".
    """
    keys = at_least_float32(keys)
    places = torch.arange(keys.shape[-1], dtype=keys.dtype, device=keys.device) - (keys.shape[-1] - 1) / 2
    return keys[..., :, None] * (-places if descending else places)


def permute(permutation: Tensor, values: Tensor) -> Tensor:
    """Values at their places: at place j, the sum over elements i of ``permutation[i, j] * values[i]``.

    Args:
        permutation: A relaxed or hard permutation matrix.
        values: Numbers or features of the elements.

    Shape:
        - permutation: (..., n, n)
        - values, result: (..., n) or (..., n, *), with the batch dimensions of `permutation`; the result has the dtype of `permutation`

    Raises:
        ValueError: The values have other batch dimensions or another number of elements.
    """
    batch = permutation.shape[:-1]
    if values.shape[: len(batch)] != batch:
        raise ValueError(f"permute: values must have shape {(*batch, '...')}, got {tuple(values.shape)}")
    flat = values.to(permutation.dtype).reshape(*batch, values.shape[len(batch) :].numel())
    return (permutation.mT @ flat).view(values.shape)
