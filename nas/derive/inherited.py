"""Evaluates architectures with the weights of the supernet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from nas.derive.base import Batches, Searched
from nas.evaluation import call_network, evaluate, joined, mean_loss, prepared, recalibrate_batch_norm, to_device
from nas.genotype import Genotype
from nas.io.rng import untouched_rng
from nas.supernet.bound import BoundSupernet
from nas.supernet.modules import copied
from nas.supernet.search_space import SearchSpace
from nas.supernet.supernet import Supernet
from nas.tasks import Task

NUM_REFIT_STEPS = 15
MAX_KEPT_BYTES = 64 * 2**20
WORST = -1e3
"""The lowest score: that of a network whose outputs are not finite, so that no strategy prefers it."""
NO_DATA = "this derive strategy needs data to score architectures, but it got no data"
DECAY = 1e-3
"""Weight decay of a refitted head, which would otherwise overfit the train split."""


def inherited_network(supernet: Supernet, space: SearchSpace, genotype: Genotype | Mapping[str, Any]) -> nn.Module:
    """A network with the supernet's weights: the derived network, or a supernet bound to the architecture if it cannot inherit."""
    if space.inherits_weights:
        return supernet.derive(genotype)
    return BoundSupernet(copied(supernet), supernet.one_hot(genotype, run_all=False))


class InheritedScore:
    """The score of an architecture with inherited weights: its negative loss on the arch split, so higher is better.

    Batch norm statistics are recalibrated on the train split, because the supernet's statistics mix architectures. `refit_head` refits the
    head (the last linear layer) on the train split, because all architectures share the supernet's head.

    Raises:
        ValueError: There is no task.
    """

    def __init__(self, searched: Searched, *, refit_head: bool = False, num_batches: int | None = None) -> None:
        if searched.task is None:
            raise ValueError(NO_DATA)
        self.searched = searched
        self.task: Task = searched.task
        self.refit_head = refit_head
        self._weight = Replayed(searched.weight_batches, num_batches)
        self._arch = Replayed(searched.arch_batches, num_batches)

    def __call__(self, choices: Mapping[str, Any]) -> float:
        """The score of an architecture."""
        with untouched_rng():
            return self.of(self.network(choices))

    def network(self, choices: Mapping[str, Any]) -> nn.Module:
        """The network of an architecture, recalibrated or refitted on the train split."""
        searched = self.searched
        with untouched_rng():
            network = inherited_network(searched.supernet, searched.space, choices)
            if self.refit_head:
                self._refit(network)
            else:
                recalibrate_batch_norm(network, self._weight, searched.device)
        return network

    def of(self, network: nn.Module) -> float:
        """The score of a network without recalibration; `WORST` if the loss is not finite."""
        loss = mean_loss(network, self._arch, self.task, self.searched.device)
        return max(-loss, WORST) if math.isfinite(loss) else WORST

    def metrics(self, network: nn.Module, others: Mapping[str, Metric] | None = None) -> dict[str, float]:
        """Loss, the task's metrics and `others` of a network on the arch split, without recalibration."""
        return evaluate(network, self._arch, self.task, self.searched.device, others)

    def _refit(self, network: nn.Module) -> None:
        """Recalibrates and refits the head in one pass over the train split."""
        seen = Seen()
        with seen.watching(network):
            if not recalibrate_batch_norm(network, self._weight, self.searched.device):
                with torch.no_grad():
                    for inputs, _ in self._weight:
                        call_network(network, to_device(inputs, self.searched.device))
        assert seen.head is not None
        batches = (to_device(batch, self.searched.device) for batch in self._weight)
        targets = [prepared(self.task, network, batch)[1] for batch in batches]
        fit_head(seen.head, seen.features, targets, self.task)


class Seen:
    """The head (the last linear layer) of a network that runs, and the inputs of the head in `features`."""

    def __init__(self) -> None:
        self.head: nn.Linear | None = None
        self.features: list[Tensor] = []
        self._calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Records the head; a call raises ValueError if the output of the network does not come from a linear layer."""
        handles = [
            layer.register_forward_hook(lambda layer, args, output: self._calls.append((layer, args[0], output)))
            for layer in network.modules()
            if type(layer) is nn.Linear
        ]
        handles.append(network.register_forward_hook(lambda _, __, output: self._keep(output)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, output: Any) -> None:
        calls, self._calls = self._calls, []
        for layer, features, result in calls:
            if result is output:
                self.head = layer
                self.features.append(features.detach())
                return
        raise ValueError("refit_head must be false: the output of the network does not come from a linear layer")


def fit_head(head: nn.Linear, features: list[Tensor], targets: list[Any], task: Task) -> None:
    """Minimizes the task's loss over the weights of a linear layer, in place, given batches of its inputs and of targets."""
    x, y = torch.cat(features), joined(targets)
    parameters = [parameter.detach().clone().requires_grad_() for parameter in head.parameters()]
    optimizer = LBFGS(parameters, max_iter=NUM_REFIT_STEPS)

    def closure() -> Tensor:
        optimizer.zero_grad()
        weight, bias = (*parameters, None)[:2]
        assert weight is not None
        loss = task.loss(F.linear(x, weight, bias), y) + DECAY * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    if all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        with torch.no_grad():
            for old, new in zip(head.parameters(), parameters, strict=True):
                old.copy_(new)


def endless(make: Batches) -> Iterator[Any]:
    """The batches of pass after pass; raises ValueError if there are none."""
    batch = None
    while True:
        for batch in make():
            yield batch
        if batch is None:
            raise ValueError(NO_DATA)


class Replayed:
    """The first `number` batches (None: all) for repeated passes: kept in memory up to `MAX_KEPT_BYTES`, otherwise read again."""

    def __init__(self, make: Batches, number: int | None) -> None:
        self._make = make
        self._number = number
        self._kept: list[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Any] = []
        num_bytes, batch = 0, None
        for batch in islice(self._make(), self._number):
            num_bytes += sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
            kept.append(batch)
            if num_bytes > MAX_KEPT_BYTES:
                kept.clear()
            yield batch
        if batch is None:
            raise ValueError(NO_DATA)
        if num_bytes <= MAX_KEPT_BYTES:
            self._kept = kept
