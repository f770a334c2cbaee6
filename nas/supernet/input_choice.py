"""The choice of k inputs for a sum, such as the edges of a cell's node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nas.ops import mix
from nas.supernet.base import CandidateChoice, check_choice, context_of
from nas.supernet.candidates import SumInputs
from nas.supernet.modules import copied
from nas.supernet.places import outermost
from nas.supernet.sampling import checkpoint


class InputChoice(CandidateChoice):
    """Sums k of n inputs, each through its own module; the k inputs are chosen.

    Made by :func:`nas.inputs`. While searching, all inputs run and nothing is drawn. With `learned`, the weights are k times the softmax of
    the logits (edge normalization), so that they sum to k as in the derived network. Otherwise each weight is 1, and the best candidates
    inside an input's module rank the input. A genotype holds a sorted list of k labels; k is at least 2 (for k = 1, use a choice).

    Source: Liu et al. 2019, "DARTS" (not learned); Xu et al. 2020, "PC-DARTS" (learned), whose weights sum to 1 instead of k.
    """

    def __init__(
        self,
        name: str,
        candidates: Mapping[str, nn.Module],
        k: int,
        *,
        learned: bool = True,
        shared: bool = False,
    ) -> None:
        super().__init__()
        check_inputs(name, candidates, k)
        self.name = name
        self.labels = tuple(candidates)
        self.candidates = nn.ModuleList(candidates.values())
        self.num_chosen = k
        self.learned = learned
        self.shared = shared

    def extra_repr(self) -> str:
        return f"name={self.name!r}, labels={list(self.labels)}, k={self.num_chosen}"

    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        indices = sorted(self.labels.index(label) for label in choices[self.name])
        return SumInputs({i: copied(self.candidates[i], copies) for i in indices})

    def complete(self, choices: Mapping[str, Any], probabilities: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        if not isinstance(choices.get(self.name), str):
            return {}
        worth = {label: self._worth(label, probabilities) for label in self.labels}
        return {self.name: sorted(sorted(worth, key=lambda label: -worth[label])[: self.num_chosen])}

    def _worth(self, label: str, probabilities: Mapping[str, Mapping[str, float]]) -> float:
        """The rank of an input: the probabilities of the best candidates inside its module, times its own probability if learned."""
        worth = probabilities[self.name][label] if self.learned else 1.0
        for inner in outermost([self.candidates[self.labels.index(label)]]):
            for name, labels in inner.rows().items():
                worth *= max(probabilities[name][other] for other in inner.derivable(labels))
        return worth

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The weighted sum of `inputs`, one tensor for each label, in the same order."""
        if len(inputs) != len(self.labels):
            raise ValueError(f"inputs {self.name!r}: {len(inputs)} inputs for {len(self.labels)} labels")
        context = context_of(self.name)
        weights = context.op_weights[context.rows[self.name]][..., : len(self.labels)]
        outputs = [
            checkpoint(candidate, x) if context.checkpoint_candidates else candidate(x)
            for candidate, x in zip(self.candidates, inputs, strict=True)
        ]
        return mix(outputs, weights)


def check_inputs(name: str, candidates: Mapping[str, Any], k: int) -> None:
    """Raises ValueError for a bad name or label, or a k out of range."""
    check_choice(name, candidates)
    if not 2 <= k < len(candidates):
        raise ValueError(f"inputs {name!r}: k must lie in 2 ... {len(candidates) - 1} (fewer than inputs), got {k}")
