"""Derives the result of a search: the genotype with its score and cost."""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from nas.benchmark import Table, training_of
from nas.callbacks.scoring import ScoringProgress
from nas.costs.functions import num_macs, num_params
from nas.costs.table import CostTable
from nas.data import SearchDataModule
from nas.derive import DeriveStrategy, Searched
from nas.derive.base import distribution_of, runner_up
from nas.derive.check import check_derived
from nas.derive.inherited import InheritedScore
from nas.derive.skips import collapsed, skip_limit, skip_share, skips_of
from nas.genotype import Genotype
from nas.io.errors import UsageError
from nas.io.files import sha256
from nas.io.rng import untouched_rng
from nas.io.versions import versions
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder
from nas.runs.judging import searched_of
from nas.runs.options import normalized
from nas.runs.targets import example_inputs, limits_of, report_of
from nas.supernet.building import architecture
from nas.tasks import Task
from nas.training.search_module import SearchModule

TABLES = "tables"
"""Name of the folder of tables, beside the module of a space."""
CONSTANT = "constant output"
NUM_COMPARED = 2
"""Number of samples for the comparison of the derived network with the supernet."""


class Derived(NamedTuple):
    """The result of a search.

    Attributes:
        genotype: The architecture, with its provenance.
        summary: The part of summary.json that describes it.
        seconds: Time of the strategy.
        network: The recalibrated derived network; None if networks of the space cannot inherit weights.
        kept: What the strategy keeps with the run; see :attr:`nas.derive.Searched.kept`.
    """

    genotype: Genotype
    summary: dict[str, Any]
    seconds: float
    network: nn.Module | None
    kept: Mapping[str, Any]


def derive_and_score(
    experiment: Experiment,
    retraining: Experiment,
    module: SearchModule,
    strategy: DeriveStrategy,
    folder: RunFolder,
    tables: Mapping[str, CostTable],
    device: torch.device,
    seen: Sequence[Mapping[str, Any]] = (),
) -> Derived:
    """Picks the architecture, and evaluates it with inherited weights on the arch split.

    Keys of the summary in addition to the genotype's keys, each null if it does not apply:

    - ``metric``: the headline metric; ``constant`` in it is the metric of the best constant output, if the task defines it.
    - ``beats_constant``: whether the headline metric is better than the metric of the best constant output.
    - ``target``, ``target_met``: the target report.
    - ``standing``: the rank in the table of the space.
    - ``distribution``: the distribution over architectures; see :func:`nas.derive.base.distribution_of`.
    - ``runner_up``: the most probable other architecture that is allowed.
    - ``replaced``: the architecture that the skip guard replaced.
    - ``best_so_far``: an earlier most probable architecture that has a higher score with the current weights.

    `retraining` is the same configuration, loaded for the stage ``"retrain"``, and `tables` are those of the targets. The run folder does
    not change. `seen` are the architectures that were the most probable one earlier in the search.

    Raises:
        ValueError: The strategy's architecture breaks a limit, or the space refuses it.
    """
    supernet, data, task = module.supernet, experiment.data, module.task
    limits = limits_of(experiment.targets, tables)
    start = time.perf_counter()
    progress = ScoringProgress("derive")
    searched = replace(
        searched_of(module, data, device, limits), seen=seen, on_progress=progress, kept=folder.read_scores()
    )
    score = InheritedScore(searched)
    try:
        found, replaced = _guarded(strategy, searched, experiment.guards.max_skip_share)
    finally:
        progress.stop()
    better = _better(score, found)
    seconds = time.perf_counter() - start
    for limit in limits:
        if limit.table.of(found.choices) > limit.max:
            raise ValueError(
                f"{type(strategy).__name__} chose an architecture that breaks the limit of {limit.table.name}"
            )
    module.space.check_genotype(found.choices)
    if module.space.inherits_weights:
        inputs = example_inputs(supernet, data, NUM_COMPARED)
        run_all = module.relaxation.num_active is None  # if only some candidates run, others may be untrained
        check_derived(supernet, found, inputs, run_all=run_all)
    constant = task.constant()
    network = score.network(found.choices)
    scores = score.metrics(network, {} if constant is None else {CONSTANT: constant})
    report = report_of(retraining, tables, found.choices, device)
    known = find_table(retraining)
    genotype = replace(
        found,
        space=experiment.values["model"]["space"],
        probabilities=supernet.probabilities(module.relaxation),
        cost=cost_of(network if module.space.inherits_weights else _plain_network(module, found), data),
        provenance={
            "seed": experiment.seed,
            "config_sha256": sha256(folder.config),
            "versions": versions(),
            **({} if replaced is None else {"replaced": replaced}),
        },
    )
    distribution = distribution_of(supernet, found.choices)
    summary = {
        "genotype": dict(genotype.choices),
        "probabilities": genotype.probabilities,
        "metric": {
            **headline(task, scores),
            "split": "arch",
            **({"constant": scores[CONSTANT]} if CONSTANT in scores else {}),
        },
        "beats_constant": has_learned(task, scores),
        "cost": genotype.cost,
        "target": report,
        "target_met": all(row["met"] for row in report.values()) if report else None,
        "distribution": distribution,
        "runner_up": runner_up(searched, distribution, found),
        "standing": None if known is None else known.standing(found.choices, "validation"),
        "replaced": replaced,
        "best_so_far": better,
    }
    return Derived(genotype, summary, seconds, network if module.space.inherits_weights else None, searched.kept)


def _guarded(
    strategy: DeriveStrategy, searched: Searched, max_share: float
) -> tuple[Genotype, Mapping[str, Any] | None]:
    """The strategy's architecture and None; if it has too many skip connections, another architecture and the replaced one."""
    found = strategy.genotype(searched)
    network = searched.supernet.network
    skips = skips_of(network)
    if not collapsed(skips, found.choices, max_share):
        return found, None
    text = f"the derived architecture has {skip_share(skips, found.choices):.0%} skip connections, more than model.guards.max_skip_share"
    try:
        other = strategy.genotype(replace(searched, limits=[*searched.limits, skip_limit(network, max_share)]))
    except ValueError as error:
        warnings.warn(f"{text}; the architecture is kept: {error}", stacklevel=2)
        return found, None
    warnings.warn(f"{text}; another architecture replaces it", stacklevel=2)
    return other, dict(found.choices)


def _better(score: InheritedScore, found: Genotype) -> Mapping[str, Any] | None:
    """The best architecture seen earlier, if its score is higher than the score of `found`."""
    searched = score.searched
    others = [choices for choices in searched.seen if dict(choices) != dict(found.choices) and searched.allows(choices)]
    if not others:
        return None
    scores = [score(choices) for choices in others]
    best = max(scores)
    return others[scores.index(best)] if best > score(found.choices) else None


def _plain_network(module: SearchModule, genotype: Genotype) -> nn.Module:
    """A fresh network with the sizes of the search, for spaces whose networks cannot inherit weights."""
    with untouched_rng(), architecture(genotype):
        return module.space.network("search")


def has_learned(task: Task, scores: Mapping[str, float]) -> bool | None:
    """Whether the headline metric is better than the metric of the best constant output; None if this is unknown."""
    name, metric = next(iter(task.metrics().items()))
    if CONSTANT not in scores or metric.higher_is_better is None:
        return None
    return scores[name] > scores[CONSTANT] if metric.higher_is_better else scores[name] < scores[CONSTANT]


def headline(task: Task, scores: Mapping[str, float]) -> dict[str, Any]:
    """Name, value and direction of the task's first metric; a metric without direction counts as higher is better."""
    name, metric = next(iter(task.metrics().items()))
    return {"name": name, "value": scores[name], "higher_is_better": metric.higher_is_better is not False}


def cost_of(network: nn.Module, data: SearchDataModule) -> dict[str, int]:
    """Number of parameters, and MACs of one sample."""
    return {"params": num_params(network), "macs": num_macs(network, example_inputs(network, data))}


def find_table(experiment: Experiment) -> Table | None:
    """The table with equal training settings in the folder ``tables`` beside the space's module; None if there is no such table."""
    try:
        folder = Path(inspect.getfile(type(experiment.model["space"]))).parent / TABLES
    except (TypeError, OSError):
        return None
    wanted = training_of(experiment.applied)
    for path in sorted(folder.glob("*.json")):
        try:
            table = Table.load(path)
        except UsageError as error:  # an unrelated file must not end a search
            warnings.warn(f"table ignored: {error}", stacklevel=2)
            continue
        if same_settings(normalized(dict(table.training)), normalized(wanted)):
            return table
    return None


def same_settings(stored: Any, present: Any) -> bool:
    """Whether settings are equal. Arguments that a class has got since they were stored must have their defaults."""
    if not isinstance(stored, dict) or not isinstance(present, dict):
        return bool(stored == present)
    if "class_path" in present and stored.get("class_path") == present["class_path"]:
        module, _, name = str(present["class_path"]).rpartition(".")
        known = inspect.signature(getattr(sys.modules[module], name)).parameters
        own, now = stored.get("init_args", {}), present.get("init_args", {})
        if any(key not in known or now[key] != known[key].default for key in now.keys() - own.keys()):
            return False
        stored, present = (
            {**stored, "init_args": own},
            {**present, "init_args": {key: now[key] for key in own if key in now}},
        )
    return stored.keys() == present.keys() and all(same_settings(stored[k], present[k]) for k in stored)
