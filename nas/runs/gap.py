"""How much worse the derived network is than the supernet, while a search runs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from nas.data import SearchDataModule
from nas.evaluation import as_floats_of, evaluate, recalibrate_batch_norm
from nas.genotype import Genotype
from nas.io.rng import untouched_rng
from nas.relaxations import OpWeights
from nas.supernet.bound import BoundSupernet
from nas.supernet.modules import eval_mode
from nas.training.search_module import SearchModule

NUM_BATCHES = 2
"""Batches of each half: enough for a curve, at the cost of a few steps."""


class DiscretisationGap:
    """The task's first metric on the arch half, of the supernet with its probabilities as weights and of the derived network."""

    def __init__(self, data: SearchDataModule) -> None:
        self.data = data
        self._halves: tuple[list[Any], list[Any]] | None = None

    def __call__(self, module: SearchModule, genotype: Genotype) -> Mapping[str, float]:
        """Measures, and leaves the module as it is; nothing where a derived network cannot take the supernet's weights."""
        if not module.space.inherits_weights:
            return {}
        if self._halves is None:
            loaders = (self.data.weight_loader(), self.data.arch_loader())
            weight, arch = (list(islice(loader, NUM_BATCHES)) for loader in loaders)
            self._halves = weight, arch
        weight, arch = self._halves
        name = next(iter(module.task.metrics()))
        try:
            module.space.check_genotype(genotype.choices)
        except ValueError:
            return {}
        weight, arch = (as_floats_of(module.supernet.network, half) for half in (weight, arch))
        supernet = module.supernet
        rows = module.relaxation.probabilities(supernet.alpha, supernet.mask).detach()
        soft = BoundSupernet(supernet, OpWeights(supernet.fill_input_rows(rows)))
        with eval_mode(module), untouched_rng():
            derived = supernet.derive(genotype)
            recalibrate_batch_norm(derived, weight, module.device)
            return {
                "gap/derived": evaluate(derived, arch, module.task, module.device)[name],
                "gap/supernet": evaluate(soft, arch, module.task, module.device)[name],
            }
