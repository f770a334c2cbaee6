"""Fine-tunes the most probable architectures and takes the best; see examples/fine_tuned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from nas.costs.limits import Infeasible, most_probable
from nas.derive.base import DeriveStrategy, Searched
from nas.derive.inherited import InheritedScore, endless, inherited_network
from nas.evaluation import observed, prepared, to_device
from nas.genotype import Genotype
from nas.io.rng import untouched_rng


class FineTuned(DeriveStrategy):
    """Fine-tunes the most probable architectures on the train split, from inherited weights, and takes the best on the arch split.

    In our measurements, this strategy was not better than random search of equal cost.

    Args:
        num: Number of architectures to train.
        num_steps: Number of batches for each architecture.
        lr: Peak learning rate of AdamW with a one-cycle schedule.

    Raises:
        ValueError: A number out of range.

    Source: the last stage of Guo et al. 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling", and others.
    """

    def __init__(self, num: int = 8, num_steps: int = 100, lr: float = 0.01) -> None:
        if num < 1 or num_steps < 1 or not lr > 0:
            raise ValueError(f"num, num_steps and lr must be above 0, got {num}, {num_steps} and {lr}")
        self.num = num
        self.num_steps = num_steps
        self.lr = lr

    def genotype(self, searched: Searched) -> Genotype:
        score = partial(tuned_score, InheritedScore(searched), num_steps=self.num_steps, lr=self.lr)
        return Genotype(max(most_probable_ones(searched, self.num), key=score))


def tuned_score(score: InheritedScore, choices: Mapping[str, Any], *, num_steps: int, lr: float) -> float:
    """The score of an architecture after :func:`fine_tune`, without recalibration."""
    searched = score.searched
    with untouched_rng(), torch.enable_grad():
        network = inherited_network(searched.supernet, searched.space, choices).to(searched.device)
        fine_tune(network, searched, num_steps=num_steps, lr=lr)
        return score.of(network)


def most_probable_ones(searched: Searched, num: int) -> list[dict[str, Any]]:
    """The `num` allowed architectures with the largest products of probabilities, best first; fewer if fewer are allowed.

    Raises:
        Infeasible: No architecture is allowed.
    """
    found: list[dict[str, Any]] = []

    def check(choices: Any) -> None:
        searched.space.check_genotype(choices)
        if dict(choices) in found:
            raise ValueError("already found")

    for _ in range(num):
        try:
            choices = most_probable(searched.supernet.network, searched.probabilities(), searched.limits, check)
        except Infeasible:
            if not found:
                raise
            break
        found.append(dict(choices))
    return found


def fine_tune(network: nn.Module, searched: Searched, *, num_steps: int, lr: float) -> None:
    """Trains a network for `num_steps` batches of the train split with a one-cycle schedule of peak `lr`."""
    task = searched.task
    assert task is not None
    optimizer = AdamW([*network.parameters()], lr=lr)
    scheduler = OneCycleLR(optimizer, lr, total_steps=num_steps, cycle_momentum=False)
    network.train()
    for inputs, target in islice(endless(searched.weight_batches), num_steps):
        inputs, target = prepared(task, network, to_device((inputs, target), searched.device))
        output = observed(task, network, inputs)
        optimizer.zero_grad()
        task.loss(output, target).backward()
        optimizer.step()
        scheduler.step()
