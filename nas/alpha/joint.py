"""The distribution over architectures: draws, log-probabilities, marginals, entropy and the most probable ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.alpha.base import Alpha, Undirected, all_paths
from nas.alpha.sweeps import improved, swept
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
        tau: Temperature, above 0; relaxed samples have their own.
    """

    kind: Alpha
    rows: Tensor
    mask: Tensor
    num_candidates: Sequence[int]
    tau: Tau = 1.0

    def at(self, tau: Tau) -> Joint:
        """The same logits at another temperature."""
        return self._replace(tau=checked_tau(tau))

    @property
    def is_enumerable(self) -> bool:
        """Whether there are at most `MAX_JOINT` paths."""
        return math.prod(self.num_candidates) <= MAX_JOINT

    def draw(self, relaxation: Relaxation, tau: Tau, generator: torch.Generator | None, num: int | None) -> Tensor:
        """Relaxed or one-hot samples: independent choices all at once, other choices one by one.

        Each choice sees the samples of earlier choices, and gradients pass through them. `tau` is the relaxation's. `num` is the number of
        samples (None: one without a dimension for it).

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
            logits = self.kind.conditional(self.rows, row, drawn, self.tau)
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
            self.kind.conditional(self.rows, row, hot[:, :row], self.tau).expand(len(paths), -1)
            for row in range(len(self.rows))
        ]
        return masked_logits(torch.stack(steps, 1), self.mask)

    def log_prob(self, paths: Tensor) -> Tensor:
        """The log-probability of paths, differentiable.

        Without the constant for :class:`nas.alpha.Pairwise` on more than `MAX_JOINT` paths: the leave-one-out score function, whose factors
        add up to 0, does not need it.

        Shape:
            - paths: (P, E) int64
            - result: (P,)
        """
        found = self.log_weight(paths)
        if isinstance(self.kind, Undirected) and self.is_enumerable:
            found = found - torch.logsumexp(self.log_weight(self._paths), 0)
        return found

    def log_weight(self, paths: Tensor) -> Tensor:
        """The log-probability of paths without the constant of undirected distributions, which takes a sum over all paths.

        Shape:
            - paths: (P, E) int64
            - result: (P,)
        """
        if isinstance(self.kind, Undirected):
            return self.kind.path_logits(self.rows, paths) / self.tau
        tables = torch.log_softmax(self.logits(paths) / self.tau, -1)
        return tables.gather(-1, paths[..., None])[..., 0].sum(-1)

    @torch.no_grad()
    def draw_paths(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples, by Gumbel-max: exact, but those of annealed sweeps for :class:`nas.alpha.Pairwise` on many paths.

        Shape:
            - result: (num, E) int64
        """
        if isinstance(self.kind, Undirected):
            if not self.is_enumerable:
                return swept(self.kind, self.rows, self.mask, self.tau, num, generator)[0]
            everything = self._paths
            return everything[gumbel_max(self.log_weight(everything).expand(num, -1), generator)[:, 0]]
        paths = torch.zeros(num, len(self.rows), dtype=torch.int64, device=self.rows.device)
        for row in range(len(self.rows)):
            hot = F.one_hot(paths[:, :row], self.rows.shape[1]).to(self.rows.dtype)
            logits = self.kind.conditional(self.rows, row, hot, self.tau).expand(num, -1)
            paths[:, row] = gumbel_max(masked_logits(logits, self.mask[row]) / self.tau, generator)[:, 0]
        return paths

    @torch.no_grad()
    def path_at(self, uniforms: Sequence[float]) -> list[int]:
        """The path at E numbers in [0, 1), through the inverse of each choice's cumulative probabilities.

        Independent uniform numbers give an exact sample.
        """
        if not any(bool(parameter.any()) for parameter in (self.rows, *self.kind.parameters())):
            return [
                int(u * size) for u, size in zip(uniforms, self.num_candidates, strict=True)
            ]  # all equally probable
        path: list[int] = []
        if isinstance(self.kind, Undirected):
            table = self.log_prob(self._paths).double().exp().reshape(tuple(self.num_candidates))
            for uniform in uniforms:
                ends = table.flatten(1).sum(1).cumsum(0) if table.dim() > 1 else table.cumsum(0)
                path.append(int((ends[:-1] <= uniform * ends[-1]).sum()))
                table = table[path[-1]]
            return path
        for row, uniform in enumerate(uniforms):
            hot = F.one_hot(torch.tensor(path, dtype=torch.int64), self.rows.shape[1]).to(self.rows)
            logits = masked_logits(self.kind.conditional(self.rows, row, hot, self.tau), self.mask[row]).double()
            ends = torch.softmax(logits / self.tau, -1).cumsum(-1)[: self.num_candidates[row] - 1]
            path.append(int((ends <= uniform).sum()))
        return path

    @property
    def _paths(self) -> Tensor:
        return all_paths(tuple(self.num_candidates), self.rows.device)

    def _fixed_draws(self) -> tuple[Tensor, float]:
        """`NUM_DRAWN` draws of fixed noise, and an estimate of the constant that :meth:`log_prob` lacks for them.

        The constant, 0 for directed distributions, comes from the weights of the same sweeps (annealed importance sampling).
        """
        generator = torch.Generator(self.rows.device).manual_seed(0)
        if not isinstance(self.kind, Undirected):
            return self.draw_paths(NUM_DRAWN, generator), 0.0
        paths, weights = swept(self.kind, self.rows, self.mask, self.tau, NUM_DRAWN, generator)
        mean = float(torch.logsumexp(weights, 0)) - math.log(NUM_DRAWN)
        return paths, mean + sum(math.log(size) for size in self.num_candidates)

    def marginals(self, relaxation: Relaxation) -> Tensor:
        """The probability of each candidate under `relaxation`, differentiable: exact up to `MAX_JOINT` paths.

        For more paths, the probabilities of a choice are those given the marginals of earlier choices; for :class:`nas.alpha.Pairwise`,
        shares of drawn paths, without a gradient.

        Shape:
            - result: (E, K)
        """
        if self.kind.is_factorised:
            return relaxation.probabilities(self.rows / self.tau, self.mask)
        if not self.is_enumerable:
            if isinstance(self.kind, Undirected):
                return F.one_hot(self._fixed_draws()[0], self.rows.shape[1]).to(self.rows.dtype).mean(0)
            found = self.rows.new_zeros(0, self.rows.shape[1])
            for row in range(len(self.rows)):
                logits = self.kind.conditional(self.rows, row, found, self.tau) / self.tau
                found = torch.cat([found, relaxation.probabilities(logits, self.mask[row])[None]])
            return found
        paths = self._paths
        if isinstance(self.kind, Undirected):
            joint = self.log_prob(paths).exp()
        else:
            tables = relaxation.probabilities(self.logits(paths) / self.tau, self.mask)
            joint = tables.gather(-1, paths[..., None])[..., 0].prod(-1)
        return torch.einsum("p,pek->ek", joint, F.one_hot(paths, self.rows.shape[1]).to(joint.dtype))

    @torch.no_grad()
    def most_probable(self, num: int) -> tuple[Tensor, Tensor]:
        """The most probable paths, best first, and their probabilities.

        Of more than `MAX_JOINT` paths, the most probable ones among `NUM_DRAWN` draws of fixed noise; for :class:`nas.alpha.Pairwise`, each
        draw is first improved choice by choice, and the probabilities are estimates.

        Shape:
            - result: (n, E) int64 and (n,), n at most `num`
        """
        if self.is_enumerable:
            paths, constant = self._paths, 0.0
        else:
            paths, constant = self._fixed_draws()
            if isinstance(self.kind, Undirected):
                paths = torch.cat([paths, improved(self.kind, self.rows, self.mask, paths)])
            paths = torch.unique(paths, dim=0)
        values = self.log_prob(paths) - constant
        best = values.sort(descending=True, stable=True).indices[:num]
        return paths[best], values[best].exp().clamp(max=1.0)

    @torch.no_grad()
    def entropy(self) -> tuple[float, bool]:
        """The entropy of the joint distribution in nats, and whether it is exact; otherwise it is an estimate from `NUM_DRAWN` draws."""
        if self.is_enumerable:
            logs = self.log_prob(self._paths)
            return float(-(logs.exp() * logs).sum()), True
        paths, constant = self._fixed_draws()
        if isinstance(self.kind, Undirected):
            return max(0.0, constant - float(self.log_prob(paths).mean())), False
        return float(
            torch.distributions.Categorical(logits=self.logits(paths) / self.tau).entropy().sum(-1).mean()
        ), False
