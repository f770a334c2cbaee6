"""The fast path of mixtures. A plan is made once; each forward only computes numbers.

* Op weights are folded into the parameters of candidates' last layers (:mod:`~nas.supernet.fused.folding`).
* Convolutions of one input run as one convolution (:mod:`~nas.supernet.fused.merging`).
* Candidates that start with the same activation or pooling of the same tensor share its result.
* Candidates that return zeros have no term. Outputs of candidates that return their input are not copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from nas.ops import mix, sum_outputs
from nas.supernet.candidates import Zero
from nas.supernet.fused.folding import Scaled, call_scaled, has_hooks, indices, is_foldable, scale_all
from nas.supernet.fused.merging import MergedKernel, call_merged, family, merged, merged_kernel

# modules without parameters, state and randomness: equal modules give equal results for one tensor
_STATELESS = frozenset(
    (
        *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish),
        *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    )
)
# the state of a module that a plan depends on: children, or all settings (``extra_repr`` omits some)
_SETTINGS: dict[type[nn.Module], Callable[[Any], Any]] = {
    **{kind: attrgetter(*kind.__constants__) for kind in (*_STATELESS, nn.Conv1d, nn.Conv2d)},  # type: ignore[attr-defined]
    **dict.fromkeys((nn.Sequential, nn.ModuleList), attrgetter("_modules")),
}


class Term(NamedTuple):
    """One term of a mixture: a candidate, or several candidates that run as one convolution.

    Attributes:
        candidates: Indices of the candidates.
        first: Key of the first step if its result can be shared; otherwise None.
        steps: The modules before `layers`, in sequence.
        layers: The layers with op weights folded into their parameters; empty if the output is multiplied instead.
        kernel: The merged kernel of several layers.
    """

    candidates: list[int]
    first: str | None
    steps: list[nn.Module]
    layers: list[nn.Module]
    kernel: MergedKernel | None = None


class Terms(NamedTuple):
    """The terms of one choice that run.

    Attributes:
        terms: The terms, in the order of their candidates.
        candidates: The candidates of each term.
        prescaled: Positions of the terms with folded op weights.
        places: Slice of each term's layers in the list of the layers of all choices.
    """

    terms: list[Term]
    candidates: list[list[int]]
    prescaled: list[int]
    places: list[slice]


class Outputs(NamedTuple):
    """Outputs of the candidates of one or more choices.

    Attributes:
        candidates: The candidates of each tensor.
        tensors: The outputs.
        prescaled: Positions of the tensors that include their op weight.
        weights: (n,) op weights of the n other tensors, in their order.
    """

    candidates: list[list[int]]
    tensors: list[Tensor]
    prescaled: list[int]
    weights: Tensor

    def total(self) -> Tensor | None:
        """The weighted sum; None without tensors."""
        if len(self.prescaled) < len(self.tensors):
            return mix(self.tensors, self.weights, prescaled=self.prescaled)
        return sum_outputs(self.tensors) if self.tensors else None


class Plan:
    """How the candidates of a supernet's choices run. `choices` maps a choice to its row of the op weights and its candidates."""

    def __init__(self, choices: Mapping[nn.Module, tuple[int, nn.ModuleList]]) -> None:
        self._watched: list[nn.Module] = [candidates for _, candidates in choices.values()]
        self._choices = {}
        for choice, (row, candidates) in choices.items():
            terms = [self._term(k, candidate) for k, candidate in enumerate(candidates)]
            self._choices[choice] = row, [term for term in terms if term is not None]
        self._states = [tuple(map(copy.copy, state)) for state in _states(self._watched)]
        self._all: dict[torch.device, _Running] = {}

    def is_current(self) -> bool:
        """Whether types, hooks, children and settings of the modules are unchanged."""
        return _states(self._watched) == self._states

    def _term(self, index: int, candidate: nn.Module) -> Term | None:
        steps = self._chain(candidate)
        last = steps[-1]
        if type(last) is Zero and len(steps) == 1 and not has_hooks(last):
            return None
        folds = is_foldable(last)
        before = steps[:-1] if folds else steps
        return Term([index], _shared_first(before, steps), before, [last] if folds else [])

    def _chain(self, candidate: nn.Module) -> list[nn.Module]:
        """The modules that a candidate calls in sequence; Sequentials without hooks are flattened."""
        self._watched.append(candidate)
        if type(candidate) is nn.Sequential and len(candidate) and not has_hooks(candidate):
            return [step for module in candidate for step in self._chain(module)]
        return [candidate]

    def prepare(self, weights: Tensor, active: list[list[int]] | None) -> Fused:
        """The numbers that one forward needs, by a few operations for all choices.

        `weights` (E, K) is one draw for the batch. `active` has the candidates to run, for each row; None: all.
        """
        if active is not None:
            running = _running(self._choices, weights, active)
        elif weights.device in self._all:
            running = self._all[weights.device]
        else:
            running = self._all[weights.device] = _running(self._choices, weights, None)
        chosen = weights.reshape(-1).index_select(0, indices(running.positions, weights.device))
        num = len(running.layers)
        scaled = scale_all(running.layers, chosen[:num]) if num else []
        return Fused(
            running.terms, scaled, dict(zip(running.terms, chosen[num:].split(running.num_plain), strict=True))
        )


class _Running(NamedTuple):
    """The terms of the candidates that run, the layers of all of them, and the positions of their op weights."""

    terms: dict[nn.Module, Terms]
    layers: list[nn.Module]
    positions: tuple[int, ...]
    num_plain: list[int]


def _running(
    choices: Mapping[nn.Module, tuple[int, list[Term]]], weights: Tensor, active: list[list[int]] | None
) -> _Running:
    result, layers, num_plain = {}, list[nn.Module](), []
    folded, plain = list[int](), list[int]()
    for choice, (row, every) in choices.items():
        chosen = every if active is None else [term for term in every if term.candidates[0] in active[row]]
        terms, places, before = _merge(chosen, weights.device), [], len(plain)
        for term in terms:
            places.append(slice(len(layers), len(layers) + len(term.layers)))
            layers += term.layers
            (folded if term.layers else plain).extend(row * weights.shape[1] + k for k in term.candidates)
        num_plain.append(len(plain) - before)
        prescaled = [i for i, term in enumerate(terms) if term.layers]
        result[choice] = Terms(terms, [term.candidates for term in terms], prescaled, places)
    return _Running(result, layers, (*folded, *plain), num_plain)


def _merge(terms: Sequence[Term], device: torch.device) -> list[Term]:
    """Merges the convolutions that can run as one; the merged term has the position of the first."""
    families: dict[object, list[Term]] = {}
    for term in terms:
        if term.layers and not term.steps and (key := family(term.layers[0])) is not None:
            families.setdefault(key, []).append(term)
    groups: dict[int, Term | None] = {}
    for members in families.values():
        layers = [term.layers[0] for term in members]
        kernel = merged_kernel(layers, device) if len(members) > 1 else None
        if kernel is not None:
            candidates = [term.candidates[0] for term in members]
            groups |= dict.fromkeys(candidates)
            groups[candidates[0]] = Term(candidates, None, [], layers, kernel)
    result = [groups.get(term.candidates[0], term) for term in terms]
    return [term for term in result if term is not None]


class Fused:
    """The numbers of one forward, and the results that its choices share. `tracked` has the batch counters of batch norms that ran."""

    def __init__(
        self, terms: Mapping[nn.Module, Terms], scaled: Sequence[Scaled], weights: Mapping[nn.Module, Tensor]
    ) -> None:
        self.tracked: list[Tensor] = []
        self._terms, self._scaled, self._weights = terms, scaled, weights
        self._shared: Any = WeakTensorKeyDictionary()  # input -> first step -> version of the input, result

    def run(self, choice: nn.Module, x: Tensor) -> Outputs:
        """Runs the candidates of a choice on one input."""
        terms, candidates, prescaled, places = self._terms[choice]
        tensors = []
        for (_, first, steps, layers, kernel), place in zip(terms, places, strict=True):
            y = x
            if first is not None and not x.is_inference():
                y, steps = self._first(first, steps[0], x), steps[1:]
            for step in steps:
                y = step(y)
            if kernel is not None:
                y = call_merged(kernel, layers[0], y, merged(kernel, self._scaled[place]))
            elif layers:
                y = call_scaled[type(layers[0])](layers[0], y, self._scaled[place.start], self.tracked)
            tensors.append(y)
        return Outputs(candidates, tensors, prescaled, self._weights[choice])

    def _first(self, key: str, step: nn.Module, x: Tensor) -> Tensor:
        """The result of a candidate's first step, cached as long as its input exists."""
        known = self._shared.setdefault(x, {})
        version, result = known.get(key, (None, None))
        if result is None or version != x._version or result._version != 0:
            result = step(x)
            known[key] = (x._version, result)
        return result


def _shared_first(before: Sequence[nn.Module], steps: Sequence[nn.Module]) -> str | None:
    """The key of the first step if its result depends only on the input and the next step does not change it; otherwise None."""
    if not before or type(before[0]) not in _STATELESS or getattr(before[0], "inplace", False) or has_hooks(before[0]):
        return None
    if len(steps) > 1 and not is_foldable(steps[1]):
        return None
    return f"{type(before[0]).__name__}{_SETTINGS[type(before[0])](before[0])}"


def _states(modules: Sequence[nn.Module]) -> list[Any]:
    """The state of the modules that a plan depends on."""
    return [
        (
            type(module),
            module.__dict__.get("forward"),
            bool(
                module._forward_hooks
                or module._forward_pre_hooks
                or module._backward_hooks
                or module._backward_pre_hooks
            ),
            _SETTINGS[type(module)](module) if type(module) in _SETTINGS else None,
        )
        for module in modules
    ]
