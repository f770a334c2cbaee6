"""The distribution over architectures: draws, log-probabilities, marginals, entropy and the most probable ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.alpha.base import Alpha
from nas.relaxations.base import Relaxation, Tau, checked_tau, gumbel_max, masked_logits

MAX_JOINT = 20_000
"""Largest number of paths that are enumerated for exact marginals, entropies and modes."""
NUM_DRAWN = 2_000
"""Number of paths drawn from a distribution over more paths."""


class Joint(NamedTuple):
    """A distribution over paths: one candidate of each of E choices, of up to K candidates each.

    At temperature tau, each choice follows the softmax of its logits divided by tau, given the candidates of the choices before it.

    Attributes:
        kind: How the logits depend on earlier choices.
        rows: (E, K) logits, the supernet's parameter ``alpha``.
        mask: (E, K) bool, False in padded columns.
        num_candidates: Number of candidates of each choice.
    """

    kind: Alpha
    rows: Tensor
    mask: Tensor
    num_candidates: Sequence[int]

    def draw(self, relaxation: Relaxation, tau: Tau, generator: torch.Generator | None, num: int | None) -> Tensor:
        """Relaxed or one-hot samples: independent choices all at once, other choices one by one.

        Each choice sees the samples of earlier choices, and gradients pass through them. `num` is the number of samples (None: one without
        a dimension for it).

        Shape:
            - result: (E, K), or (E, num, K)
        """
        if self.kind.is_factorised:
            rows, mask = self.rows, self.mask
            if num is not None:
                rows, mask = rows[:, None].expand(-1, num, -1), mask[:, None]
            return relaxation(
                rows, tau, mask=mask if min(self.num_candidates) < self.rows.shape[1] else None, generator=generator
            )
        shape = () if num is None else (num,)
        drawn = self.rows.new_zeros((*shape, 0, self.rows.shape[1]))
        for row in range(len(self.rows)):
            logits = self.kind.conditional(self.rows, row, drawn)
            weights = relaxation(logits, tau, mask=self.mask[row], generator=generator)
            drawn = torch.cat([drawn, weights[..., None, :]], -2)
        return drawn if num is None else drawn.transpose(0, 1)

    def logits(self, paths: Tensor) -> Tensor:
        """The logits of each choice along given paths.

        Shape:
            - paths: (P, E) int64
            - result: (P, E, K)
        """
        hot = F.one_hot(paths, self.rows.shape[1]).to(self.rows.dtype)
        steps = [
            self.kind.conditional(self.rows, row, hot[:, :row]).expand(len(paths), -1) for row in range(len(self.rows))
        ]
        return masked_logits(torch.stack(steps, 1), self.mask)

    def log_prob(self, paths: Tensor, tau: Tau = 1.0) -> Tensor:
        """The log-probability of paths at a temperature, differentiable.

        Shape:
            - paths: (P, E) int64
            - result: (P,)
        """
        tables = torch.log_softmax(self.logits(paths) / checked_tau(tau), -1)
        return tables.gather(-1, paths[..., None])[..., 0].sum(-1)

    @torch.no_grad()
    def draw_paths(self, num: int, tau: Tau = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact samples at a temperature, by Gumbel-max choice by choice.

        Shape:
            - result: (num, E) int64
        """
        paths = torch.zeros(num, len(self.rows), dtype=torch.int64, device=self.rows.device)
        for row in range(len(self.rows)):
            hot = F.one_hot(paths[:, :row], self.rows.shape[1]).to(self.rows.dtype)
            logits = self.kind.conditional(self.rows, row, hot).expand(num, -1)
            paths[:, row] = gumbel_max(masked_logits(logits, self.mask[row]) / checked_tau(tau), generator)[:, 0]
        return paths

    @torch.no_grad()
    def path_at(self, uniforms: Sequence[float], tau: Tau = 1.0) -> list[int]:
        """The path at E numbers in [0, 1), through the inverse of each choice's cumulative probabilities at a temperature.

        Independent uniform numbers give an exact sample.
        """
        path: list[int] = []
        for row, uniform in enumerate(uniforms):
            hot = F.one_hot(torch.tensor(path, dtype=torch.int64), self.rows.shape[1]).to(self.rows)
            logits = masked_logits(self.kind.conditional(self.rows, row, hot), self.mask[row]).double()
            ends = torch.softmax(logits / checked_tau(tau), -1).cumsum(-1)[: self.num_candidates[row] - 1]
            path.append(int((ends <= uniform).sum()))
        return path

    def support(self) -> tuple[Tensor, bool]:
        """All paths and True; of more than `MAX_JOINT` paths, the distinct ones among `NUM_DRAWN` draws of fixed noise, and False.

        Shape:
            - result: (N, E) int64
        """
        sizes = self.num_candidates
        if math.prod(sizes) <= MAX_JOINT:
            ranges = [torch.arange(size, device=self.rows.device) for size in sizes]
            return torch.cartesian_prod(*ranges).reshape(-1, len(ranges)), True
        generator = torch.Generator(self.rows.device).manual_seed(0)
        return torch.unique(self.draw_paths(NUM_DRAWN, 1.0, generator), dim=0), False

    def marginals(self, relaxation: Relaxation) -> Tensor:
        """The probability of each candidate under `relaxation`, differentiable: exact up to `MAX_JOINT` paths.

        For more paths, the probabilities of a choice are those given the marginals of earlier choices.

        Shape:
            - result: (E, K)
        """
        if self.kind.is_factorised:
            return relaxation.probabilities(self.rows, self.mask)
        paths, is_exact = self.support()
        if not is_exact:
            found = self.rows.new_zeros(0, self.rows.shape[1])
            for row in range(len(self.rows)):
                each = relaxation.probabilities(self.kind.conditional(self.rows, row, found), self.mask[row])
                found = torch.cat([found, each[None]])
            return found
        tables = relaxation.probabilities(self.logits(paths), self.mask)
        joint = tables.gather(-1, paths[..., None])[..., 0].prod(-1)
        return torch.einsum("p,pek->ek", joint, F.one_hot(paths, self.rows.shape[1]).to(joint.dtype))

    @torch.no_grad()
    def most_probable(self, num: int, tau: Tau = 1.0) -> tuple[Tensor, Tensor]:
        """The most probable paths, best first, and their probabilities; of more than `MAX_JOINT` paths, the most probable drawn ones.

        Shape:
            - result: (n, E) int64 and (n,), n at most `num`
        """
        paths, _ = self.support()
        values = self.log_prob(paths, tau)
        best = values.sort(descending=True, stable=True).indices[:num]
        return paths[best], values[best].exp()

    @torch.no_grad()
    def entropy(self, tau: Tau = 1.0) -> tuple[float, bool]:
        """The entropy of the joint distribution in nats, and whether it is exact; otherwise it is the mean over `NUM_DRAWN` draws."""
        paths, is_exact = self.support()
        if is_exact:
            logs = self.log_prob(paths, tau)
            return float(-(logs.exp() * logs).sum()), True
        generator = torch.Generator(self.rows.device).manual_seed(0)
        paths = self.draw_paths(NUM_DRAWN, tau, generator)
        tables = self.logits(paths) / checked_tau(tau)
        return float(torch.distributions.Categorical(logits=tables).entropy().sum(-1).mean()), False
