"""How much worse the derived network is than the supernet, while a search runs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import nn

from nas.data import SearchDataModule
from nas.evaluation import as_floats_of, evaluate, recalibrate_batch_norm
from nas.genotype import Genotype
from nas.relaxations import OpWeights
from nas.supernet.supernet import Supernet
from nas.training.search_module import SearchModule

NUM_BATCHES = 2
"""Batches of each half: enough for a curve, at the cost of a few steps."""


class DiscretisationGap:
    """The task's first metric on the arch half, of the supernet with its probabilities as weights and of the derived network."""

    def __init__(self, data: SearchDataModule) -> None:
        """Sets the data; batches are read when the first measurement is made."""
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
        modes = [(inner, inner.training) for inner in module.modules()]
        weight, arch = (as_floats_of(module.supernet.network, half) for half in (weight, arch))
        try:
            with torch.random.fork_rng(devices=[]):
                derived = module.supernet.derive(genotype)
                recalibrate_batch_norm(derived, weight, module.device)
                return {
                    "gap/derived": evaluate(derived, arch, module.task, module.device)[name],
                    "gap/supernet": evaluate(_Soft(module), arch, module.task, module.device)[name],
                }
        finally:
            for inner, training in modes:
                inner.training = training


class _Soft(nn.Module):
    """A supernet with its probabilities as op weights."""

    def __init__(self, module: SearchModule) -> None:
        super().__init__()
        self.supernet: Supernet = module.supernet
        rows = module.relaxation.probabilities(module.supernet.alpha, module.supernet.mask)
        self.op_weights = OpWeights(module.supernet.fill_input_rows(rows.detach()), None)

    def forward(self, *args: Any) -> Any:
        return self.supernet(*args, op_weights=self.op_weights)
