"""From a searched supernet to a plain network, its genotype, score and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from nas.costs import num_macs, num_params
from nas.data import SearchDataModule
from nas.derive import DeriveStrategy
from nas.evaluation import as_args, evaluate, recalibrate_batch_norm, to_device
from nas.files import sha256
from nas.genotype import Genotype
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder, versions
from nas.search_module import SearchModule
from nas.tasks import Task


class Derived(NamedTuple):
    """What a search found.

    Attributes:
        genotype: With space, probabilities, cost and provenance.
        metric: The headline metric on the arch half, weights inherited.
    """

    genotype: Genotype
    metric: dict[str, Any]


def derive_and_score(
    experiment: Experiment, module: SearchModule, strategy: DeriveStrategy, folder: RunFolder, device: torch.device
) -> Derived:
    """Picks the architecture, and judges it with inherited weights on the arch half.

    Args:
        experiment: What was searched.
        module: In its trained state.
        strategy: Picks the architecture.
        folder: The run folder; only read.
        device: Where to evaluate.
    """
    supernet, data, task = module.supernet, experiment.data, module.task
    found = strategy.genotype(supernet, module.relaxation, module.space)
    network = inherited_network(module, found, data, device)
    scores = evaluate(network, data.arch_loader(), task, device)
    genotype = replace(
        found,
        space=experiment.values["model"]["space"],
        probabilities=supernet.probabilities(module.relaxation),
        cost=cost_of(network, data),
        provenance={"seed": experiment.seed, "config_sha256": sha256(folder.config), "versions": versions()},
    )
    return Derived(genotype, {**headline(task, scores), "split": "arch"})


def inherited_network(
    module: SearchModule, genotype: Genotype, data: SearchDataModule, device: torch.device
) -> nn.Module:
    """The plain network with the supernet's weights, batch-norm statistics recalibrated on the weight half."""
    network = module.supernet.derive(genotype)
    recalibrate_batch_norm(network, data.weight_loader(), device)
    return network


def headline(task: Task, scores: Mapping[str, float]) -> dict[str, Any]:
    """The task's first metric."""
    name = next(iter(task.metrics()))
    return {"name": name, "value": scores[name]}


def example_inputs(network: nn.Module, data: SearchDataModule) -> tuple[Any, ...]:
    """Inputs of two training samples, on the network's device."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    inputs, _ = data.example()
    return as_args(to_device(inputs, device))


def cost_of(network: nn.Module, data: SearchDataModule) -> dict[str, int]:
    """Parameters, and MACs of one sample."""
    return {"params": num_params(network), "macs": num_macs(network, example_inputs(network, data))}
