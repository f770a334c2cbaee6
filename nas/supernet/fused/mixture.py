"""The terms of a choice's mixture: how each candidate's is made, and their sum.

All choices of a supernet are prepared together, by a few operations a forward. Candidates that start with the same activation or pooling
of the same tensor share it; those that put out zeros have no term; those that put out their input are not copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nas.ops import mix, sum_outputs
from nas.supernet.candidates import Zero
from nas.supernet.fused.folding import Scaled, call_scaled, has_hooks, indices, is_foldable, scale_all
from nas.supernet.fused.merging import Plan, call_merged, family, merged, plan

# neither parameters nor state nor randomness: equal ones of one tensor give equal results
_STATELESS = frozenset(
    (
        *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish),
        *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    )
)


class Term(NamedTuple):
    """How a candidate's term is made, or that of several which are one convolution.

    Attributes:
        candidates: Their indices.
        steps: The modules, one after the other.
        scaled: The last one's parameters, times the op weight; None: what comes out is multiplied.
        plan: How several became one.
    """

    candidates: list[int]
    steps: list[nn.Module]
    scaled: Scaled | None
    plan: Plan | None = None


class Terms(NamedTuple):
    """The terms of one choice.

    Attributes:
        terms: Of the candidates that run and contribute.
        weights: (n,) op weights of those n whose output is multiplied, in their order.
    """

    terms: list[Term]
    weights: Tensor


@dataclass
class Folded:
    """What one forward of a supernet has prepared, and what its choices share in it.

    Attributes:
        terms: id of a choice -> its terms.
        shared: (module, id of its input) -> the input, its version, and the result.
        tracked: Batch counters of norms that have run.
    """

    terms: Mapping[int, Terms]
    shared: dict[tuple[str, int], tuple[Tensor, int, Tensor]] = field(default_factory=dict)
    tracked: list[Tensor] = field(default_factory=list)


class Outputs(NamedTuple):
    """What the candidates of choices have put out.

    Attributes:
        candidates: Those of each tensor.
        tensors: What they put out.
        prescaled: Positions of those that have their weight; the others are to be multiplied,
        weights: by these.
    """

    candidates: list[list[int]]
    tensors: list[Tensor]
    prescaled: list[int]
    weights: Tensor

    def total(self) -> Tensor | None:
        """The sum; None where nothing contributes."""
        if len(self.prescaled) < len(self.tensors):
            return mix(self.tensors, self.weights, prescaled=self.prescaled)
        return sum_outputs(self.tensors) if self.tensors else None


def chain(candidate: nn.Module) -> list[nn.Module]:
    """The modules that a candidate calls one after the other: those of plain Sequentials without hooks, else the candidate itself."""
    if type(candidate) is nn.Sequential and len(candidate) and not has_hooks(candidate):
        return [step for module in candidate for step in chain(module)]
    return [candidate]


def prepare(
    places: Sequence[tuple[nn.Module, int, nn.ModuleList]],
    weights: Tensor,
    active: list[list[int]] | None,
) -> Folded:
    """What the choices of a supernet need for one forward.

    Args:
        places: Each choice with its row of the op weights and its candidates.
        weights: Op weights, one draw for the batch.
        active: For each row the candidates to run; None: all.

    Shape:
        - weights: (E, K)
    """
    found: list[list[tuple[int, list[nn.Module], bool]]] = []
    layers: list[nn.Module] = []
    of_layers: list[int] = []
    of_plain: list[int] = []
    counts: list[int] = []
    width = weights.shape[1]
    for _, row, candidates in places:
        mine = []
        before = len(of_plain)
        for k in active[row] if active is not None else range(len(candidates)):
            steps = chain(candidates[k])
            last = steps[-1]
            if type(last) is Zero and len(steps) == 1 and not has_hooks(last):
                continue
            folds = is_foldable(last)
            mine.append((k, steps, folds))
            if folds:
                layers.append(last)
            (of_layers if folds else of_plain).append(row * width + k)
        found.append(mine)
        counts.append(len(of_plain) - before)
    chosen = weights.reshape(-1).index_select(0, indices((*of_layers, *of_plain), weights.device))
    scaled = iter(scale_all(layers, chosen[: len(layers)]) if layers else ())
    plain = chosen[len(layers) :].split(counts)
    terms = {}
    for (place, _, _), mine, own in zip(places, found, plain, strict=True):
        own_terms = [Term([k], steps, next(scaled) if folds else None) for k, steps, folds in mine]
        terms[id(place)] = Terms(_merge(own_terms, weights.device), own)
    return Folded(terms)


def _merge(terms: list[Term], device: torch.device) -> list[Term]:
    """Convolutions that can run as one do, in the place of the first."""
    families: dict[object, list[int]] = {}
    for i, term in enumerate(terms):
        if len(term.steps) == 1 and term.scaled is not None and (key := family(term.steps[0])) is not None:
            families.setdefault(key, []).append(i)
    result: list[Term | None] = list(terms)
    for places in families.values():
        members = [terms[i] for i in places]
        found = plan([term.steps[0] for term in members], device) if len(members) > 1 else None
        if found is not None:
            scaled = merged(found, [term.scaled for term in members if term.scaled is not None])
            for i in places:
                result[i] = None
            result[places[0]] = Term([term.candidates[0] for term in members], members[0].steps, scaled, found)
    return [term for term in result if term is not None]


def run(terms: Terms, folded: Folded, x: Tensor) -> Outputs:
    """Runs the candidates of a choice on one input."""
    tensors: list[Tensor] = []
    for _, steps, scaled, found in terms.terms:
        y = x
        for i, step in enumerate(steps if scaled is None else steps[:-1]):
            y = _shared(step, steps, y, folded) if i == 0 else step(y)
        if scaled is not None and found is not None:
            y = call_merged(found, steps[-1], y, scaled)
        elif scaled is not None:
            y = call_scaled(steps[-1], y, scaled, folded.tracked)
        tensors.append(y)
    prescaled = [i for i, term in enumerate(terms.terms) if term.scaled is not None]
    return Outputs([term.candidates for term in terms.terms], tensors, prescaled, terms.weights)


def _shared(step: nn.Module, steps: Sequence[nn.Module], x: Tensor, folded: Folded) -> Tensor:
    """The first step of a candidate, computed once where it comes first in several."""
    if not _is_shareable(step, steps) or x.is_inference():
        result: Tensor = step(x)
        return result
    # __constants__ names all settings; extra_repr leaves some out
    settings = [getattr(step, name) for name in type(step).__constants__]  # type: ignore[attr-defined]
    key = (f"{type(step).__name__}{settings}", id(x))
    known = folded.shared.get(key)
    if known is not None and known[0] is x and known[1] == x._version and known[2]._version == 0:
        return known[2]
    result = step(x)
    folded.shared[key] = (x, x._version, result)
    return result


def _is_shareable(step: nn.Module, steps: Sequence[nn.Module]) -> bool:
    """Whether the result depends on the input alone, and the step that follows leaves it as it is."""
    if type(step) not in _STATELESS or getattr(step, "inplace", False) or has_hooks(step):
        return False
    return len(steps) == 1 or is_foldable(steps[1])
