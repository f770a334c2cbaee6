"""One choice among K candidate ops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from nas.io.rng import untouched_rng
from nas.ops import mix, sum_outputs
from nas.ops.mix import weighted
from nas.supernet.base import CandidateChoice, active_context, check_choice, context_of, present_context
from nas.supernet.candidates import keep_input
from nas.supernet.fused.folding import has_hooks
from nas.supernet.fused.mixture import Fused, Outputs
from nas.supernet.modules import copied, eval_mode
from nas.supernet.sampling import checkpoint, repeatable
from nas.supernet.trees import difference, form_of, mix_trees, odd_leaf, versions_of


class MixedOp(CandidateChoice):
    """One choice: its output is the op-weighted sum of its candidates' outputs.

    Made by :func:`nas.choice`. It holds no op weights. During each forward they come from the enclosing :class:`nas.Supernet`, so that
    interleaved forwards, deep copies and activation checkpointing are exact.

    Args:
        name: The choice's name; letters, digits and ``_ . + -``.
        candidates: label -> module, at least two.
        shared: Allow several choices of this name; they then have one row of alpha.
        search_only: Labels that compete while searching but cannot be derived.

    Raises:
        ValueError: A bad name or label, or fewer than two candidates.

    Attributes:
        labels: K labels, in the order of `candidates`.
        candidates: K modules.
    """

    def __init__(
        self,
        name: str,
        candidates: Mapping[str, nn.Module],
        *,
        shared: bool = False,
        search_only: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_choice(name, candidates, search_only)
        for label, candidate in candidates.items():
            if not isinstance(candidate, nn.Module):
                raise ValueError(
                    f"choice {name!r}: candidate {label!r} must be an nn.Module or a factory of one, "
                    f"got {type(candidate).__name__}"
                )
        self.name = name
        self.labels = tuple(candidates)
        self.candidates = nn.ModuleList(map(keep_input, candidates.values()))
        self.shared = shared
        self.search_only = frozenset(search_only)
        self._is_checked = False

    def extra_repr(self) -> str:
        return f"name={self.name!r}, labels={list(self.labels)}"

    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        chosen: nn.Module = copied(self.candidates[self.labels.index(choices[self.name])], copies)
        return chosen

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``sum_k w_k op_k(x)`` over the candidates that run; all candidates get the same arguments.

        Candidates may return tuples, lists or dicts of one form; then each tensor inside is mixed.

        Raises:
            RuntimeError: Called outside the forward of the supernet that owns this choice.
            ValueError: The candidates' outputs differ in shape or form, or cannot be mixed.
        """
        context = context_of(self.name)
        row = context.rows[self.name]
        active = context.active[row] if context.active else None
        if context.fused is not None and len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            outputs = self.run(context.fused, args[0])
            if outputs.tensors and not isinstance(outputs.tensors[0], Tensor):
                return mix_trees(outputs.tensors, outputs.weights)
            total = outputs.total()
            if total is None:  # every candidate that runs returns zeros
                total = mix([torch.zeros_like(args[0])], context.op_weights[row][..., :1])
            return total
        # a compiled graph runs all candidates, and a change of `_is_checked` would recompile it
        before = None if torch.compiler.is_compiling() or self._is_checked else versions_of((args, kwargs))
        indices = list(range(len(self.labels))) if active is None else active
        weights = _columns(context.op_weights[row], len(self.labels), active)
        if context.checkpoint_candidates:
            result = self._checkpointed(indices, weights, args, kwargs)
        else:
            made = [self.candidates[k](*args, **kwargs) for k in indices]
            self._check_outputs(indices, made)
            if isinstance(made[0], Tensor):
                result = made[0] if context.unit_weights else mix(made, weights)
            else:
                result = made[0] if context.unit_weights else self._mix_trees(made, weights)
        if before is not None:
            self._check_first(indices, result, args, kwargs, before)
        return result

    def _mix_trees(self, outputs: list[Any], weights: Tensor) -> Any:
        if weights.dim() > 1:
            raise ValueError(f"choice {self.name!r}: noise per sample needs candidates that return one tensor")
        return mix_trees(outputs, weights)

    def run(self, fused: Fused, x: Tensor) -> Outputs:
        """The terms of the sum, on the fast path."""
        before = None if torch.compiler.is_compiling() or self._is_checked else versions_of(x)
        outputs = fused.run(self, x)
        self._check_outputs(outputs.candidates, outputs.tensors)
        if before is not None:
            ran = list(itertools.chain(*outputs.candidates))
            self._check_first(ran, outputs.tensors[0] if outputs.tensors else x, (x,), {}, before)
        return outputs

    def _checkpointed(self, indices: list[int], weights: Tensor, args: tuple, kwargs: dict) -> Tensor:
        def run(candidate: nn.Module, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            output = candidate(*args, **kwargs)
            return weighted(output, weight) if isinstance(output, Tensor) else output

        terms = [
            checkpoint(run, self.candidates[k], weight, *args, **kwargs)
            for k, weight in zip(indices, weights.unbind(-1), strict=True)
        ]
        self._check_outputs(indices, terms, only_tensors=True)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _check_outputs(
        self, indices: Sequence[int | list[int]], outputs: list[Any], *, only_tensors: bool = False
    ) -> None:
        """Raises ValueError for outputs that cannot be mixed, or differ in form."""
        if all(isinstance(output, Tensor) for output in outputs):
            if len({output.shape for output in outputs}) == 1:
                return
        else:
            for number, output in enumerate(outputs):
                odd = output if only_tensors and not isinstance(output, Tensor) else odd_leaf(output)
                if odd is not None:
                    wanted = "one tensor" if only_tensors else "tensors, alone or in tuples, lists and dicts"
                    raise ValueError(
                        f"choice {self.name!r}: candidate {self._label(indices[number])!r} must return {wanted}, got {type(odd).__name__}"
                    )
        self._check_forms({self._label(k): form_of(output) for k, output in zip(indices, outputs, strict=True)})

    def _check_forms(self, forms: Mapping[str, Any]) -> None:
        if (found := difference(forms)) is not None:
            kind, text = found
            cures = {
                "shape": "nas.Projection gives them a common shape",
                "form": "nas.First takes the first of several",
            }
            raise ValueError(f"choice {self.name!r}: candidate outputs differ in {kind} ({text}); {cures[kind]}")

    def _label(self, indices: int | list[int]) -> str:
        """The label of a candidate, or of the first of several merged candidates."""
        return self.labels[indices if isinstance(indices, int) else indices[0]]

    def _check_first(self, indices: list[int], result: Any, args: tuple, kwargs: dict, before: list[int]) -> None:
        """Checks the first forward: the output shapes of candidates that did not run, and that no candidate changed the inputs."""
        self._check_idle(indices, result, args, kwargs)
        if versions_of((args, kwargs)) != before:
            raise ValueError(
                f"choice {self.name!r}: candidate {self._changing(args, kwargs)!r} changes its input in place, but other "
                "candidates read the same input; make it return a new tensor (inplace=False)"
            )
        self._is_checked = True

    @torch.no_grad()
    def _changing(self, args: tuple, kwargs: dict) -> str:
        """The label of the first candidate that changes its inputs."""
        for label, candidate in zip(self.labels, self.candidates, strict=True):
            own = tree_map_only(Tensor, torch.clone, (args, kwargs))
            before = versions_of(own)
            candidate(*own[0], **own[1])
            if versions_of(own) != before:
                return label
        return ", ".join(self.labels)  # the change happens at random

    @torch.no_grad()
    def _check_idle(self, indices: list[int], result: Any, args: tuple, kwargs: dict) -> None:
        """Runs the candidates that were not sampled, so that the first forward finds wrong shapes.

        Eval mode and a forked random state keep buffers and later draws unchanged.
        """
        idle = [k for k in range(len(self.labels)) if k not in indices]
        if not idle:
            return
        forms = {self.labels[k]: form_of(result) for k in indices}
        device = next((leaf.device for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
        with untouched_rng(device), active_context(repeatable(present_context())()), eval_mode(self):
            for k in idle:
                output = self.candidates[k](*args, **kwargs)
                self._check_outputs([k], [output])
                forms[self.labels[k]] = form_of(output)
        self._check_forms(forms)


def _columns(weights: Tensor, size: int, active: list[int] | None) -> Tensor:
    """The op weights (..., n) of the candidates that run; a view where that is possible."""
    if active is None:
        return weights[..., :size]
    if len(active) == 1:
        return weights[..., active[0] : active[0] + 1]
    return weights[..., active]


def mixed_sum(modules: Sequence[nn.Module], inputs: Sequence[Tensor]) -> Tensor:
    """``sum_i modules[i](inputs[i])``. All choices among the modules add their terms to one sum, instead of one sum for each choice.

    Use it for a cell's node whose edges are choices. In a derived network it is the plain sum.

    Args:
        modules: At least one module; choices or other modules.
        inputs: One input for each module.

    Shape:
        - inputs: any
        - result: the shape of each module's output
    """
    context = present_context()
    tensors: list[Tensor] = []
    prescaled: list[int] = []
    weights: list[Tensor] = []
    for module, x in zip(modules, inputs, strict=True):
        if type(module) is MixedOp and context is not None and context.fused is not None and not has_hooks(module):
            context_of(module.name)  # refuses a choice of another supernet
            outputs = module.run(context.fused, x)
            if outputs.tensors and not isinstance(outputs.tensors[0], Tensor):
                raise ValueError(f"nas.mixed_sum: candidates of {module.name!r} must return one tensor each")
            prescaled += [len(tensors) + i for i in outputs.prescaled]
            tensors += outputs.tensors
            weights.append(outputs.weights)
        else:
            prescaled.append(len(tensors))
            tensors.append(module(x))
    if not tensors:  # no choice has a term: each returns its zeros
        return sum_outputs([module(x) for module, x in zip(modules, inputs, strict=True)])
    joined = torch.cat(weights) if len(weights) > 1 else weights[0] if weights else inputs[0].new_empty(0)
    total = Outputs([], tensors, prescaled, joined).total()
    assert total is not None
    return total
