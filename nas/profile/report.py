"""The profiles of a configuration and of one architecture."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.costs.functions import COSTS
from nas.costs.latency import device_name
from nas.costs.limits import cheapest, most_expensive, passes
from nas.costs.table import CostTable
from nas.derive import Argmax, Searched
from nas.io.errors import as_usage_error
from nas.profile.memory import Forecast, device_memory, forecast
from nas.runs.build import build_network, build_search, check_retraining
from nas.runs.config import Experiment, load_experiment
from nas.runs.options import ConfigSource
from nas.runs.schema import Target
from nas.runs.spaces import read_genotype_of
from nas.runs.targets import cost_model, cost_tables, example_inputs, infeasibility, limits_of, target_report
from nas.runs.trainer import prepare_machine
from nas.supernet.places import places_of
from nas.supernet.search_space import SearchSpace
from nas.supernet.structure import allows, draw_choices, find_rows
from nas.supernet.supernet import Supernet
from nas.training.search_module import SearchModule

NUM_RANDOM = 1000


def profile(source: ConfigSource, *, memory: int | None = None) -> dict[str, Any]:
    """Costs, memory and targets of a search, before it runs; `memory` replaces the bytes of the device.

    Raises:
        UsageError: The configuration does not work.
    """
    experiment = load_experiment(source)
    retraining = experiment.for_retrain()
    device = prepare_machine(experiment.trainer)
    module = build_search(experiment)
    supernet, space = module.supernet, module.space
    with as_usage_error():
        forecasts = forecast(module, experiment.data.example())
    searched = Searched(supernet=supernet, relaxation=module.relaxation, space=space)
    check_retraining(retraining, Argmax().genotype(searched))
    tables = cost_tables(retraining, device, _cost_functions(experiment), measure=True)
    drawn = _random_architectures(supernet.network, space)
    ranges = {name: _cost_range(supernet.network, table, space, drawn) for name, table in tables.items()}
    return {
        "device": device_name(device),
        "num_architectures": supernet.num_architectures,
        "counting_rule": space.counting_rule or "distinct assignments of active choices",
        "candidates": _candidate_rows(supernet, tables, cost_model(retraining, device).shapes()),
        "costs": ranges,
        "memory": memory_report(module, forecasts, experiment, memory or device_memory(device)),
        "targets": _targets(module, experiment.targets, tables, ranges),
    }


def profile_genotype(path: Path, source: ConfigSource) -> dict[str, Any]:
    """The costs of the retrained network of a genotype, for one sample; `path` is a genotype.json or a file in published notation.

    Raises:
        UsageError: The file cannot be read, or has a genotype of another space.
    """
    experiment = load_experiment(source, stage="retrain")
    genotype = read_genotype_of(path, experiment)
    device = prepare_machine(experiment.trainer)
    network = build_network(experiment, genotype).to(device).eval()
    inputs = example_inputs(network, experiment.data)
    costs = {name: function(network, inputs) for name, function in _cost_functions(experiment).items()}
    return {
        "device": device_name(device),
        "choices": dict(genotype.choices),
        "costs": costs,
        "targets": target_report(experiment.targets, network=costs),
    }


def _cost_functions(experiment: Experiment) -> dict[str, Callable[..., Any]]:
    return {**COSTS, **{target.name: target.function for target in experiment.targets}}


def _candidate_rows(
    supernet: Supernet, tables: Mapping[str, CostTable], shapes: Mapping[tuple[str, str], tuple[int, ...]]
) -> list[dict[str, Any]]:
    """For each candidate: the shape of its output for one sample, and the largest amount that it adds to each cost."""
    return [
        {
            "choice": name,
            "candidate": label,
            "shape": list(shapes.get((name, label), ())),
            **{cost: table.largest(name, label) for cost, table in tables.items()},
        }
        for name, labels in supernet.choices.items()
        for label in labels
    ]


def _cost_range(
    network: nn.Module, table: CostTable, space: SearchSpace, drawn: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The smallest and largest cost, and mean and standard deviation over the random architectures `drawn`."""
    values = torch.tensor([table.of(choices) for choices in drawn], dtype=torch.float64)
    return {
        "smallest": table.of(cheapest(network, table, (), space.check_genotype)),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "largest": table.of(most_expensive(network, table)),
    }


def _random_architectures(network: nn.Module, space: SearchSpace) -> list[dict[str, Any]]:
    """Labels of all choices, active or not, of random architectures that gates and the space allow."""
    rows, places, source = find_rows(network), list(places_of(network)), random.Random(0)
    drawn = (draw_choices(rows, source) for _ in range(100 * NUM_RANDOM))
    valid = (choices for choices in drawn if allows(places, choices) and passes(space.check_genotype, choices))
    return list(islice(valid, NUM_RANDOM))


def memory_report(
    module: SearchModule, forecasts: Mapping[str, Forecast], experiment: Experiment, memory: int
) -> dict[str, Any]:
    """Bytes of a step at the configured batch size, whether they fit, and which settings would fit."""
    batch_size = experiment.data.batch_size
    at_once = math.ceil(batch_size / module.num_parts_in_turn)
    mode = "soft" if module.relaxation.num_active is None else "sampled"
    modes = {
        name: {
            "weights": each.weights,
            "gradients": each.gradients,
            "optimizer_states": each.optimizer_states,
            "saved_tensors": round(each.saved(at_once)),
            "total": round(each.total(at_once)),
            "largest_batch": each.largest_batch(memory) * module.num_parts_in_turn,
        }
        for name, each in forecasts.items()
    }
    own, sampled = modes["soft" if mode == "soft" else "sampled_largest"], modes["sampled_largest"]
    fits = own["total"] <= memory
    ways = []
    if largest := own["largest_batch"]:
        ways.append(f"data.batch_size {largest}")
        if module.bilevel.accumulates and module.sampling.noise == "batch":
            ways.append(f"model.num_micro_batches {math.ceil(batch_size / largest) * module.num_micro_batches}")
    if mode == "soft" and sampled["total"] <= memory:
        ways.append("model.relaxation nas.relaxations.SampledPath at this batch size")
    elif mode == "soft" and (largest := sampled["largest_batch"]):
        ways.append(f"model.relaxation nas.relaxations.SampledPath with data.batch_size {largest}")
    advice = f"would fit: {', or '.join(ways)}" if ways else "no batch size would fit; use a smaller space"
    return {
        "batch_size": batch_size,
        "mode": mode,
        "device_bytes": memory,
        "fits": fits,
        **modes,
        "advice": "" if fits else advice,
    }


def _targets(
    module: SearchModule,
    targets: Sequence[Target],
    tables: Mapping[str, CostTable],
    ranges: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The target report with the smallest costs, and whether one architecture can keep all limits."""
    if not targets:
        return {}
    report = target_report(targets, smallest={name: row["smallest"] for name, row in ranges.items()})
    reason = infeasibility(module, limits_of(targets, tables))
    return {"limits": report, "can_be_met": not reason, "why": reason}
