"""A network with choices, together with their logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from nas.alpha import Alpha, Factorised, Joint
from nas.genotype import Genotype
from nas.ops.fused import is_eager
from nas.relaxations import OpWeights, Relaxation, Sampler, Softmax
from nas.relaxations.base import active_candidates, check_per_sample
from nas.supernet.base import Context, active_context
from nas.supernet.fused.folding import count_batches
from nas.supernet.fused.mixture import Fused, Plan
from nas.supernet.input_rows import InputRows
from nas.supernet.mixed_op import MixedOp
from nas.supernet.modules import check_network
from nas.supernet.narrowing import prepare_layers
from nas.supernet.selection import equal_shares, on_path, selected
from nas.supernet.state import check_choices, encoded
from nas.supernet.structure import (
    active_choices,
    argmax_choices,
    checked_choices,
    completed,
    derive,
    find_rows,
    num_architectures,
)


class Supernet(nn.Module):
    """Finds every choice of a network and owns alpha, the logits of all choices.

    ``state_dict`` holds the network, alpha, and the names and labels of the choices. A state dict with other names or labels raises
    ValueError.

    Args:
        network: Any module; choices may be in containers and inside candidates of other choices.
        checkpoint_candidates: Recompute candidates in the backward pass instead of keeping their activations. Batch norms then
            update their running statistics twice per step, as in torch's own checkpointing.
        fold_weights: Fold an op weight into the parameters of a candidate's last layer, if that layer is a batch norm, a convolution or
            linear. The result is equal up to rounding, with less memory and time.
        distribution: The distribution of which alpha holds the logits; default :class:`nas.alpha.Factorised`.

    Raises:
        ValueError: A choice name is used twice without ``shared=True``, or with different labels, or the distribution does not fit.

    Attributes:
        network: The network, with its choices.
        choices: choice name -> labels; row e of alpha belongs to the e-th name.
        alpha: (E, K) arch parameters, K the largest number of candidates; zeros at first, so all candidates start equal.
        mask: (E, K) bool, False in padded columns.
        frozen: Names of the choices whose rows of alpha are not trained.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        checkpoint_candidates: bool = False,
        fold_weights: bool = True,
        distribution: Alpha | None = None,
    ) -> None:
        super().__init__()
        check_network(network)
        self.network = network
        self.checkpoint_candidates = checkpoint_candidates
        self.fold_weights = fold_weights
        self._mixed_ops = [module for module in network.modules() if isinstance(module, MixedOp)]
        places = find_rows(network)
        prepare_layers(network)
        self._places = list(places.values())
        self.choices = {name: place.rows()[name] for name, place in places.items()}
        self.frozen = frozenset(name for name, place in places.items() if not place.learned)
        self._rows = {name: row for row, name in enumerate(self.choices)}
        self._sizes = sizes = [len(labels) for labels in self.choices.values()]
        width = max(sizes, default=0)
        self.alpha = nn.Parameter(torch.zeros(len(sizes), width), requires_grad=bool(sizes))
        mask = torch.arange(width) < torch.tensor(sizes, dtype=torch.int64)[:, None]
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.input_rows = InputRows([p.num_chosen for p in places.values()], [p.learned for p in places.values()])
        self.distribution = distribution if distribution is not None else Factorised()
        self.distribution.build(sizes)
        if self.input_rows.has_any and not self.distribution.is_factorised:
            raise ValueError(
                f"{type(self.distribution).__name__}: choices of nas.inputs have several labels; use Factorised"
            )
        self.register_load_state_dict_pre_hook(check_choices)
        self._used: set[str] | None = None
        self._plan: Plan | None = None

    @contextmanager
    def noting_used(self) -> Iterator[set[str]]:
        """Collects the names of choices that forward passes use inside the block."""
        self._used = set()
        try:
            yield self._used
        finally:
            self._used = None

    def every_candidate(self, sampler: Sampler | None = None) -> OpWeights:
        """Op weights under which every candidate runs, each with an equal share; `sampler` is for :func:`nas.sample`."""
        return equal_shares(self, sampler)

    def forward(self, *args: Any, op_weights: OpWeights, **kwargs: Any) -> Any:
        """Runs the network with one sample of op weights.

        Args:
            *args: Passed to the network.
            op_weights: From :meth:`sample` or :meth:`one_hot`.
            **kwargs: Passed to the network.
        """
        context = self.context(op_weights)
        with active_context(context):
            result = self.network(*args, **kwargs)
        if context.fused is not None:
            count_batches(context.fused.tracked)
        return result

    def context(self, op_weights: OpWeights, *, is_fast: bool = True) -> Context:
        """What choices need to run with a sample of op weights; with `is_fast`, for one call of the network on the fast path."""
        weights, active, sampler, unit_weights, _ = op_weights
        if weights.shape[0] != len(self.choices) or weights.shape[-1] != self.alpha.shape[1]:
            raise ValueError(
                f"op_weights must have shape {tuple(self.alpha.shape)} or (E, batch, K), got {tuple(weights.shape)}"
            )
        indices = None if active is None else active.tolist()
        unit_weights = unit_weights and not self.checkpoint_candidates
        return Context(
            rows=self._rows,
            op_weights=weights,
            active=indices,
            sampler=sampler,
            checkpoint_candidates=self.checkpoint_candidates and torch.is_grad_enabled(),
            fused=None if unit_weights or not is_fast else self._fused(weights, indices),
            unit_weights=unit_weights,
            used=self._used,
        )

    def _fused(self, weights: Tensor, active: list[list[int]] | None) -> Fused | None:
        """The fast path of this forward; None if it is switched off or op weights are per sample."""
        is_folded = self.fold_weights and not self.checkpoint_candidates and weights.dim() == 2
        if not is_folded or not is_eager() or _has_any_global_hook():  # such hooks must see every layer
            return None
        if self._plan is None or not self._plan.is_current():
            self._plan = Plan({op: (self._rows[op.name], op.candidates) for op in self._mixed_ops})
        return self._plan.prepare(weights, active)

    def sample(
        self,
        relaxation: Relaxation,
        tau: Tensor | float,
        *,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
    ) -> OpWeights:
        """One batched draw for all choices. The device synchronizes only if the relaxation runs some of the candidates.

        Args:
            relaxation: Draws op weights from alpha.
            tau: Temperature, above 0.
            generator: Source of the noise, on alpha's device.
            num_samples: Batch size for noise per sample, with weights (E, B, K); None: one draw for the batch.

        Raises:
            ValueError: Noise per sample with a relaxation that runs only some candidates, or a choice with too few candidates.
        """
        sampler = Sampler(relaxation, tau, generator)
        if not self.choices:
            return OpWeights(self.alpha, None, sampler)
        if num_samples is not None:
            check_per_sample(relaxation)
        if relaxation.num_active is not None and relaxation.num_active > (fewest := min(self._sizes)):
            raise ValueError(
                f"{type(relaxation).__name__} runs {relaxation.num_active} candidates, but a choice has only {fewest}"
            )
        weights = self.joint.draw(relaxation, tau, generator, num_samples)
        active = active_candidates(relaxation, weights)
        before = self.alpha.detach().clone() if relaxation.acts_after_arch_step else None
        return OpWeights(
            self.fill_input_rows(weights), None if active is None else active.cpu(), sampler, logits=before
        )

    def fill_input_rows(self, weights: Tensor) -> Tensor:
        """Replaces the rows of :func:`nas.inputs`, which are not drawn, in op weights (E, K) or (E, B, K)."""
        return self.input_rows.fill(weights, self.alpha, self.mask)

    def one_hot(self, genotype: Genotype | Mapping[str, Any], *, run_all: bool = True) -> OpWeights:
        """Op weights that select one architecture.

        Args:
            genotype: A Genotype, or its choices; inactive choices take their first candidate.
            run_all: Run every candidate (weights 0 and 1); otherwise only the chosen candidates.

        Raises:
            ValueError: The genotype does not fit this supernet.
        """
        return selected(self, checked_choices(self.network, _choices_of(genotype)), run_all=run_all)

    def path(self, candidates: Sequence[int]) -> OpWeights:
        """Op weights under which exactly one candidate of each choice runs; `candidates` has the index of each."""
        return on_path(self, candidates)

    def probability_rows(self, relaxation: Relaxation) -> Tensor:
        """(E, K) marginal probabilities under `relaxation`, differentiable in alpha."""
        return self.joint.marginals(relaxation)

    @property
    def joint(self) -> Joint:
        """The distribution over architectures, at its temperature."""
        return Joint(self.distribution, self.alpha, self.mask, self._sizes, self.distribution.temperature)

    def genotype_of(
        self, path: Sequence[int], probabilities: Mapping[str, Mapping[str, float]] | None = None
    ) -> Genotype:
        """The architecture of a path, the index of a candidate of each choice; see :meth:`prune`."""
        chosen = {name: labels[index] for (name, labels), index in zip(self.choices.items(), path, strict=True)}
        return self.prune(Genotype(chosen), probabilities)

    def probabilities(self, relaxation: Relaxation | None = None) -> dict[str, dict[str, float]]:
        """Choice name -> label -> probability under `relaxation` (softmax of alpha by default)."""
        if not self.choices:
            return {}
        rows = self.probability_rows(relaxation or Softmax()).tolist()
        return {
            name: dict(zip(labels, row, strict=False))  # rows are padded to the widest choice
            for (name, labels), row in zip(self.choices.items(), rows, strict=True)
        }

    def discretize(self, relaxation: Relaxation | None = None) -> Genotype:
        """The most probable architecture; in a tie, the first."""
        probabilities = self.probabilities(relaxation)
        if self.distribution.is_factorised:
            return self.prune(Genotype(argmax_choices(probabilities)), probabilities)
        return self.genotype_of(self.joint.most_probable(1)[0][0].tolist(), probabilities)

    def prune(self, genotype: Genotype, probabilities: Mapping[str, Mapping[str, float]] | None = None) -> Genotype:
        """The same genotype without inactive choices, and with invalid values replaced.

        Gates without a kept element keep the most probable element. The most probable other label replaces a search-only label. An input
        choice with one label gets the k labels of highest rank. `probabilities` decide the replacements (None: softmax of alpha).

        Raises:
            ValueError: An active choice is missing or has an unknown label.
        """
        full = completed(self._places, genotype.choices, probabilities or self.probabilities())
        active = active_choices(self.network, full, self.choices)
        return Genotype(active, genotype.space, genotype.probabilities, genotype.cost, genotype.provenance)

    def derive(self, genotype: Genotype | Mapping[str, Any]) -> nn.Module:
        """The plain network of one architecture: inherited weights, and the modules and keys of a build under :func:`nas.architecture`.

        Raises:
            ValueError: The genotype does not fit this supernet.
        """
        return derive(self.network, checked_choices(self.network, _choices_of(genotype)))

    @property
    def num_architectures(self) -> int:
        """The number of distinct assignments of active choices."""
        return num_architectures(self.network)

    @torch.no_grad()
    def after_arch_step(self, relaxation: Relaxation, sample: OpWeights) -> None:
        """Applies the relaxation's change of alpha after a step of the arch parameters. Rows that are not drawn do not change."""
        if relaxation.acts_after_arch_step:
            before = self.alpha.clone()
            relaxation.after_arch_step(self.alpha, sample)
            self.alpha.copy_(self.input_rows.only_drawn(self.alpha, before))

    def learned_alpha(self) -> Tensor:
        """Alpha without a gradient to frozen rows."""
        return self.input_rows.without_frozen(self.alpha)

    def arch_parameters(self) -> list[nn.Parameter]:
        """Alpha, and the parameters of its distribution; empty without choices."""
        return [self.alpha, *self.distribution.parameters()] if self.choices else []

    def weight_parameters(self) -> list[nn.Parameter]:
        """The parameters of the network."""
        return list(self.network.parameters())

    def get_extra_state(self) -> Tensor:
        """The names and labels of the choices."""
        return encoded(self.choices)

    def set_extra_state(self, state: Tensor) -> None:
        """Does nothing: the choices come from the network, and a pre-hook has compared them."""


def _choices_of(genotype: Genotype | Mapping[str, Any]) -> Mapping[str, Any]:
    return genotype.choices if isinstance(genotype, Genotype) else genotype
