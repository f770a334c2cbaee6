"""From a searched supernet to a plain network, its genotype, score and cost."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import nn

from nas.callbacks.scoring import ScoringProgress
from nas.costs.functions import latency_ms, num_macs, num_params
from nas.costs.limits import Limit
from nas.costs.table import CostTable
from nas.data import SearchDataModule
from nas.derive import DeriveStrategy, Searched
from nas.derive.check import check_derived
from nas.derive.inherited import InheritedScore, inherited_network
from nas.derive.skips import collapsed, skip_limit, skip_share, skips_of
from nas.evaluation import as_args, as_floats_of, evaluate, first_samples, recalibrate_batch_norm, to_device
from nas.genotype import Genotype
from nas.io.files import sha256
from nas.io.rng import untouched_rng
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder, versions
from nas.runs.table import find_table
from nas.runs.targets import limits_of, load_tables
from nas.supernet.building import architecture
from nas.tasks import Task
from nas.training.search_module import SearchModule

CONSTANT = "constant output"
NUM_COMPARED = 2
"""Samples on which the derived network is compared with the supernet."""


class Derived(NamedTuple):
    """What a search found.

    Attributes:
        genotype: With space, probabilities, cost and provenance.
        metric: The headline metric on the arch half, weights inherited; where the task tells, what the best constant output has.
        beats_constant: Whether that is better than what the best constant output has; None where the task does not tell.
        target: Of every cost target the limit, what the cost table says, and what the retrained network has (a latency: measured anew).
        target_met: Whether every limit is kept; a measured cost is judged by the table. None without targets.
        seconds: What the strategy took.
        replaced: What the strategy took, and the skip guard replaced; None where it did not.
        best_so_far: An architecture that was the most probable one earlier, and does better on the arch half with the present weights.
        standing: Where the architecture stands by validation in the table of its space; None where there is no such table.
    """

    genotype: Genotype
    metric: dict[str, Any]
    beats_constant: bool | None
    target: dict[str, dict[str, float]]
    target_met: bool | None
    seconds: float
    standing: dict[str, float] | None
    replaced: Mapping[str, Any] | None
    best_so_far: Mapping[str, Any] | None

    def summary(self) -> dict[str, Any]:
        """What summary.json and the commands say of it."""
        return {
            "genotype": dict(self.genotype.choices),
            "probabilities": self.genotype.probabilities,
            "metric": self.metric,
            "beats_constant": self.beats_constant,
            "cost": self.genotype.cost,
            "target": self.target,
            "target_met": self.target_met,
            "standing": self.standing,
            "replaced": self.replaced,
            "best_so_far": self.best_so_far,
        }


def derive_and_score(
    experiment: Experiment,
    retraining: Experiment,
    module: SearchModule,
    strategy: DeriveStrategy,
    folder: RunFolder,
    device: torch.device,
    seen: Sequence[Mapping[str, Any]] = (),
) -> Derived:
    """Picks the architecture, and judges it with inherited weights on the arch half.

    Args:
        experiment: What was searched.
        retraining: The same, loaded for the stage ``"retrain"``.
        module: In its trained state.
        strategy: Picks the architecture.
        folder: The run folder; only read.
        device: Where to evaluate.
        seen: Architectures that were the most probable one at an earlier moment; one that does better is reported.

    Raises:
        ValueError: The strategy's architecture breaks a limit, or makes no sense.
    """
    supernet, data, task = module.supernet, experiment.data, module.task
    tables = load_tables(experiment.targets, folder.path)
    limits = limits_of(experiment.targets, tables)
    start = time.perf_counter()
    progress = ScoringProgress("derive")
    searched = replace(searched_of(module, data, device, limits), seen=seen, on_progress=progress)
    try:
        found, replaced = _guarded(strategy, searched, experiment.guards.max_skip_share)
    finally:
        progress.stop()
    better = _better(searched, found)
    seconds = time.perf_counter() - start
    for limit in limits:
        if limit.table.of(found.choices) > limit.max:
            raise ValueError(
                f"{type(strategy).__name__} chose an architecture that breaks the limit of {limit.table.name}"
            )
    module.space.check_genotype(found.choices)
    if module.space.inherits_weights:
        inputs = first_samples(as_floats_of(supernet.network, islice(data.arch_loader(), 1))[0][0], NUM_COMPARED)
        run_all = module.relaxation.num_active is None  # others may never have been trained
        check_derived(supernet, found, as_args(to_device(inputs, device)), run_all=run_all)
    constant = task.constant()
    others = {} if constant is None else {CONSTANT: constant}
    scores = evaluate(recalibrated_network(module, found, data, device), data.arch_loader(), task, device, others)
    target, met = describe_targets(retraining, tables, found.choices, device)
    known = find_table(retraining)
    standing = None if known is None else known.standing(found.choices, "validation")
    genotype = replace(
        found,
        space=experiment.values["model"]["space"],
        probabilities=supernet.probabilities(module.relaxation),
        cost=cost_of(plain_network(module, found), data),
        provenance={
            "seed": experiment.seed,
            "config_sha256": sha256(folder.config),
            "versions": versions(),
            **({} if replaced is None else {"replaced": replaced}),
        },
    )
    metric = {**headline(task, scores), "split": "arch"}
    if CONSTANT in scores:
        metric["constant"] = scores[CONSTANT]
    learned = has_learned(task, scores)
    return Derived(genotype, metric, learned, target, met, seconds, standing, replaced, better)


def _guarded(
    strategy: DeriveStrategy, searched: Searched, max_share: float
) -> tuple[Genotype, Mapping[str, Any] | None]:
    """What the strategy takes; where that is mostly skip connections, what it takes of those that are not, and what that replaced."""
    found = strategy.genotype(searched)
    network = searched.supernet.network
    skips = skips_of(network)
    if not collapsed(skips, found.choices, max_share):
        return found, None
    text = f"{skip_share(skips, found.choices):.0%} of the derived architecture are skip connections, more than model.guards.max_skip_share"
    try:
        other = strategy.genotype(replace(searched, limits=[*searched.limits, skip_limit(network, max_share)]))
    except ValueError as error:
        warnings.warn(f"{text}; it is kept: {error}", stacklevel=2)
        return found, None
    warnings.warn(f"{text}; another one was taken", stacklevel=2)
    return other, dict(found.choices)


def _better(searched: Searched, found: Genotype) -> Mapping[str, Any] | None:
    """The best of the architectures seen earlier, where it does better than the one found."""
    others = [choices for choices in searched.seen if dict(choices) != dict(found.choices) and searched.allows(choices)]
    if not others:
        return None
    score = InheritedScore(searched)
    scores = [score(choices) for choices in others]
    best = max(scores)
    return others[scores.index(best)] if best > score(found.choices) else None


def recalibrated_network(
    module: SearchModule, genotype: Genotype, data: SearchDataModule, device: torch.device
) -> nn.Module:
    """A network with the supernet's weights, batch-norm statistics recalibrated on the weight half."""
    network = inherited_network(module.supernet, module.space, genotype)
    recalibrate_batch_norm(network, data.weight_loader(), device)
    return network


def searched_of(
    module: SearchModule, data: SearchDataModule, device: torch.device, limits: Sequence[Limit] = ()
) -> Searched:
    """What a derive strategy sees of a search: the halves of its training set, never the test set."""
    return Searched(
        supernet=module.supernet.to(device),
        relaxation=module.relaxation,
        space=module.space,
        limits=limits,
        task=module.task,
        weight_batches=data.weight_loader,
        arch_batches=data.arch_loader,
        device=device,
        seed=module.seed,
    )


def plain_network(module: SearchModule, genotype: Genotype) -> nn.Module:
    """The derived network in the sizes of the search; its weights matter only where they are inherited."""
    if module.space.inherits_weights:
        return module.supernet.derive(genotype)
    with untouched_rng(), architecture(genotype):
        return module.space.network("search")


def describe_targets(
    retraining: Experiment, tables: Mapping[str, CostTable], choices: Mapping[str, Any], device: torch.device
) -> tuple[dict[str, dict[str, float]], bool | None]:
    """What :class:`Derived` says of targets."""
    if not retraining.targets:
        return {}, None
    with untouched_rng(), architecture(choices):
        network = retraining.model["space"].network("retrain").to(device)
    inputs = first_samples(example_inputs(network, retraining.data))
    described, met = {}, True
    for name, limit, _, function in retraining.targets:
        row = {"max": limit, "table": tables[name].of(choices), "network": float(function(network, inputs))}
        met = met and row["table" if function is latency_ms else "network"] <= limit
        described[name] = row
    return described, met


def has_learned(task: Task, scores: Mapping[str, float]) -> bool | None:
    """Whether the headline metric is better than that of the best constant output; None where the task does not tell.

    Args:
        task: What was measured.
        scores: By metric, and what a constant has under `CONSTANT`.
    """
    name, metric = next(iter(task.metrics().items()))
    if CONSTANT not in scores or metric.higher_is_better is None:
        return None
    return scores[name] > scores[CONSTANT] if metric.higher_is_better else scores[name] < scores[CONSTANT]


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
