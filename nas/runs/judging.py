"""Evaluates architectures with the weights of the supernet, during and after a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nas.bilevel import ScoreFunction
from nas.costs.limits import Limit, passes
from nas.data import SearchDataModule
from nas.derive import Searched
from nas.derive.inherited import InheritedScore
from nas.evaluation import as_floats_of
from nas.genotype import Genotype
from nas.io.rng import untouched_rng
from nas.relaxations import OpWeights
from nas.supernet.bound import BoundSupernet
from nas.supernet.modules import eval_mode
from nas.training.search_module import SearchModule

NUM_BATCHES = 2
"""Batches of each split that an evaluation during a search reads; it takes about the time of a few steps."""


def searched_of(
    module: SearchModule, data: SearchDataModule, device: torch.device, limits: Sequence[Limit] = ()
) -> Searched:
    """The input of a derive strategy: the supernet and both splits of the training set, never the test set."""
    supernet = module.supernet.to(device)
    return Searched(
        supernet=supernet,
        relaxation=module.relaxation,
        space=module.space,
        limits=limits,
        task=module.task,
        weight_batches=lambda: as_floats_of(supernet.network, data.weight_loader()),
        arch_batches=lambda: as_floats_of(supernet.network, data.arch_loader()),
        device=device,
        seed=module.seed,
    )


class PathJudge:
    """The loss of an architecture on the arch split, for :class:`nas.bilevel.ScoreFunction`."""

    def __init__(self, module: SearchModule, data: SearchDataModule, method: ScoreFunction) -> None:
        self._make = lambda num_batches: InheritedScore(
            searched_of(module, data, module.device), refit_head=method.refit_head, num_batches=num_batches
        )
        self._num_batches = method.num_batches
        self._known: InheritedScore | None = None

    def check(self, choices: Mapping[str, Any]) -> None:
        """Raises an error if architectures cannot be scored."""
        self._make(1)(choices)

    def __call__(self, choices: Mapping[str, Any]) -> float:
        """The loss; keeps its batches in memory."""
        if self._known is None:
            self._known = self._make(self._num_batches)
        return -self._known(choices)


class SearchJudge:
    """Evaluates architectures during a search, with the current weights, on `NUM_BATCHES` batches of each split."""

    def __init__(self, data: SearchDataModule) -> None:
        self.data = data
        self._known: InheritedScore | None = None

    def score(self, module: SearchModule, choices: Mapping[str, Any]) -> float:
        """Negative loss on the arch split, for :class:`nas.callbacks.Guards`."""
        return self._score(module)(choices)

    def gap(self, module: SearchModule, genotype: Genotype) -> dict[str, float]:
        """The task's first metric of the derived network, and of the supernet with its probabilities as op weights.

        Empty if a derived network cannot inherit the supernet's weights, or if the space refuses the genotype.
        """
        if not (module.space.inherits_weights and passes(module.space.check_genotype, genotype.choices)):
            return {}
        name, supernet = next(iter(module.task.metrics())), module.supernet
        rows = supernet.probability_rows(module.relaxation).detach()
        soft = BoundSupernet(supernet, OpWeights(supernet.fill_input_rows(rows)))
        score = self._score(module)
        with eval_mode(module), untouched_rng():
            networks = {"gap/derived": score.network(genotype.choices), "gap/supernet": soft}
            return {tag: score.metrics(network)[name] for tag, network in networks.items()}

    def _score(self, module: SearchModule) -> InheritedScore:
        if self._known is None:  # keeps its batches in memory
            self._known = InheritedScore(searched_of(module, self.data, module.device), num_batches=NUM_BATCHES)
        return self._known
