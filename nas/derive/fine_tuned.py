"""The best of the most probable architectures, after a short training of each."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from nas.costs.limits import Infeasible, most_probable
from nas.derive.base import DeriveStrategy, Searched
from nas.derive.inherited import InheritedScore, inherited_network
from nas.evaluation import call_network, to_device
from nas.genotype import Genotype
from nas.io.rng import untouched_rng
from nas.lr_schedules import make_lr_scheduler


class FineTuned(DeriveStrategy):
    """Trains each of the most probable architectures from inherited weights, on the weight half, and takes the best on the arch half.

    Args:
        num: Architectures to train.
        num_steps: Batches for each.
        lr: Highest learning rate of AdamW, in one cycle.

    Raises:
        ValueError: A number out of range.

    Source: as the last stage of Guo et al. 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling", and others.
    """

    def __init__(self, num: int = 8, num_steps: int = 100, lr: float = 0.01) -> None:
        if num < 1 or num_steps < 1 or not lr > 0:
            raise ValueError(f"num, num_steps and lr must be above 0, got {num}, {num_steps} and {lr}")
        self.num = num
        self.num_steps = num_steps
        self.lr = lr

    def genotype(self, searched: Searched) -> Genotype:
        score = InheritedScore(searched)
        pool = most_probable_ones(searched, self.num)
        scores = [self._tuned(score, choices) for choices in pool]
        return Genotype(pool[scores.index(max(scores))])

    def _tuned(self, score: InheritedScore, choices: dict[str, Any]) -> float:
        searched = score.searched
        with untouched_rng(), torch.enable_grad():
            network = inherited_network(searched.supernet, searched.space, choices).to(searched.device)
            fine_tune(network, searched, num_steps=self.num_steps, lr=self.lr)
            return score.of(network)


def most_probable_ones(searched: Searched, num: int) -> list[dict[str, Any]]:
    """The architectures with the largest products of probabilities, best first; fewer where there are no more.

    Raises:
        Infeasible: There is none.
    """
    found: list[dict[str, Any]] = []

    def check(choices: Any) -> None:
        searched.space.check_genotype(choices)
        if dict(choices) in found:
            raise ValueError("taken already")

    for _ in range(num):
        try:
            choices = most_probable(searched.supernet.network, searched.probabilities(), searched.limits, check)
        except Infeasible:
            if not found:
                raise
            break
        found.append(dict(choices))
    return found


def fine_tune(network: nn.Module, searched: Searched, *, num_steps: int, lr: float, **kwargs: Any) -> None:
    """Trains a network on the weight half, in its order.

    Args:
        network: In training mode afterwards.
        searched: Its task and weight half are used.
        num_steps: Batches.
        lr: Highest learning rate, in one cycle.
        **kwargs: Passed to the network.
    """
    task = searched.task
    assert task is not None
    optimizer = AdamW([*network.parameters()], lr=lr)
    scheduler = make_lr_scheduler("one_cycle", optimizer, num_steps)
    network.train()
    for inputs, target in islice(_without_end(searched), num_steps):
        output = call_network(network, to_device(inputs, searched.device), **kwargs)
        optimizer.zero_grad()
        task.loss(output, to_device(target, searched.device)).backward()
        optimizer.step()
        scheduler.step()


def _without_end(searched: Searched) -> Any:
    while True:
        yield from searched.weight_batches()
