"""A distribution with a learned logit for each candidate and for each pair of candidates of two choices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.alpha.base import Undirected, all_paths
from nas.relaxations.base import Tau


class Pairwise(Undirected):
    """The Gibbs distribution of paths: the logit of a path is the sum of its candidates' logits and of its pairs' logits.

    At temperature tau, the probability of a path is proportional to ``exp(logit / tau)``, so that a lower tau sharpens the distribution and
    does not change the order of architectures. Up to 20,000 paths, all values are exact sums over paths; for more, paths are drawn by
    annealed sweeps of Gumbel-max over the choices, and :meth:`nas.alpha.Joint.log_prob` lacks its constant.

    Source: Geman and Geman 1984, "Stochastic Relaxation, Gibbs Distributions, and the Bayesian Restoration of Images".
    """

    def build(self, num_candidates: Sequence[int]) -> None:
        number, width = len(num_candidates), max(num_candidates, default=0)
        self._sizes = tuple(num_candidates)
        self.pairs = nn.Parameter(
            torch.zeros(number, number, width, width)
        )  # [later, earlier, earlier's, later's candidate]

    def _symmetric(self) -> Tensor:
        """The logit of each pair, from both sides: [one, other, other's, one's candidate]."""
        lower = self.pairs * torch.ones_like(self.pairs[:, :, 0, 0]).tril(-1)[..., None, None]
        return lower + lower.permute(1, 0, 3, 2)

    def path_logits(self, rows: Tensor, paths: Tensor) -> Tensor:
        return self._sums(rows, self._symmetric(), F.one_hot(paths, rows.shape[1]).to(rows.dtype))

    @staticmethod
    def _sums(rows: Tensor, pairs: Tensor, hot: Tensor) -> Tensor:
        return (hot * (rows + torch.einsum("...jk,ejkl->...el", hot, pairs) / 2)).sum((-1, -2))

    def full_conditional(self, rows: Tensor, row: int, hot: Tensor) -> Tensor:
        return rows[row] + torch.einsum("...jk,jkl->...l", hot, self._symmetric()[row])

    def conditional(self, rows: Tensor, row: int, earlier: Tensor, tau: Tau) -> Tensor:
        pairs, end = self._symmetric(), row + 1
        own = rows[row] + torch.einsum("...jk,jkl->...l", earlier, pairs[row, :row])
        if end == len(rows):
            return own
        later = all_paths(self._sizes[end:], rows.device)
        hot = F.one_hot(later, rows.shape[1]).to(rows.dtype)  # (R, later choices, K)
        among = self._sums(rows[end:], pairs[end:, end:], hot)
        with_own = torch.einsum("rjk,jkl->rl", hot, pairs[row, end:])
        with_earlier = torch.einsum("...il,ijkl,rjk->...r", earlier, pairs[:row, end:], hot)
        rest = (among + with_earlier)[..., None] + with_own
        return own + tau * torch.logsumexp(rest / tau, -2)
