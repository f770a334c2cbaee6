"""The profile of a configuration."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nas.costs.functions import COSTS
from nas.costs.latency import device_name
from nas.costs.limits import cheapest, most_expensive, passes
from nas.costs.table import CostTable
from nas.derive import Argmax, Searched
from nas.io.errors import as_usage_error
from nas.profile.memory import Forecast, device_memory, forecast
from nas.runs.build import build_search, check_retraining
from nas.runs.config import Experiment, load_experiment, load_retraining
from nas.runs.options import ConfigSource
from nas.runs.schema import Target
from nas.runs.targets import cost_model, cost_tables, infeasibility, limits_of, target_report
from nas.runs.trainer import prepare_machine
from nas.supernet.search_space import SearchSpace
from nas.supernet.structure import allows, draw_choices, find_rows
from nas.supernet.supernet import Supernet
from nas.training.search_module import SearchModule

NUM_RANDOM = 1000


def profile(source: ConfigSource, *, memory: int | None = None) -> dict[str, Any]:
    """Everything that can be said of a search before it runs.

    Args:
        source: The configuration.
        memory: Bytes of the device; None: what it has.

    Raises:
        UsageError: The configuration does not work.
    """
    experiment, retraining = load_experiment(source), load_retraining(source)
    device = prepare_machine(experiment.trainer)
    module = build_search(experiment)
    with as_usage_error():
        forecasts = forecast(module, experiment.data.example())
    check_retraining(
        retraining,
        Argmax().genotype(Searched(supernet=module.supernet, relaxation=module.relaxation, space=module.space)),
    )
    costs = {**COSTS, **{target.name: target.function for target in experiment.targets}}
    tables = cost_tables(retraining, device, costs, measure=True)
    ranges = {name: cost_range(module.supernet, table, module.space) for name, table in tables.items()}
    return {
        "device": device_name(device),
        "num_architectures": module.supernet.num_architectures,
        "counting_rule": module.space.counting_rule or "distinct assignments of active choices",
        "candidates": candidate_rows(module.supernet, tables, _shapes(retraining, device)),
        "costs": ranges,
        "memory": memory_report(module, forecasts, experiment, memory or device_memory(device)),
        "targets": _targets(module, experiment.targets, tables, ranges),
    }


def _shapes(retraining: Experiment, device: torch.device) -> Mapping[tuple[str, str], tuple[int, ...]]:
    return cost_model(retraining, device).shapes()


def candidate_rows(
    supernet: Supernet, tables: Mapping[str, CostTable], shapes: Mapping[tuple[str, str], tuple[int, ...]]
) -> list[dict[str, Any]]:
    """A row for each candidate of each choice: its output's shape for one sample, and what it adds to each cost at most."""
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


def cost_range(supernet: Supernet, table: CostTable, space: SearchSpace) -> dict[str, float]:
    """The smallest cost, the mean and standard deviation of random architectures, and the largest."""
    network = supernet.network
    values = torch.tensor([table.of(choices) for choices in _random_architectures(network, space)], dtype=torch.float64)
    return {
        "smallest": table.of(cheapest(network, table, (), space.check_genotype)),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "largest": table.of(most_expensive(network, table)),
    }


def _random_architectures(network: torch.nn.Module, space: SearchSpace) -> list[dict[str, Any]]:
    """Labels of every choice, active or not; gates keep something, and what the space refuses is drawn again."""
    places, source = find_rows(network), random.Random(0)
    found: list[dict[str, Any]] = []
    for _ in range(100 * NUM_RANDOM):
        choices = draw_choices(places, source)
        if not (allows(network, choices) and passes(space.check_genotype, choices)):
            continue
        found.append(choices)
        if len(found) == NUM_RANDOM:
            break
    return found


def memory_report(
    module: SearchModule, forecasts: Mapping[str, Forecast], experiment: Experiment, memory: int
) -> dict[str, Any]:
    """Bytes of a step at the configured batch size, whether they fit, and what would."""
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
    needed = modes["soft" if mode == "soft" else "sampled_largest"]["total"]
    return {
        "batch_size": batch_size,
        "mode": mode,
        "device_bytes": memory,
        "fits": needed <= memory,
        **modes,
        "advice": _advice(module, mode, modes, memory, batch_size) if needed > memory else "",
    }


def _advice(
    module: SearchModule, mode: str, modes: Mapping[str, Mapping[str, int]], memory: int, batch_size: int
) -> str:
    largest = modes["soft" if mode == "soft" else "sampled_largest"]["largest_batch"]
    ways = [f"data.batch_size {largest}"] if largest else []
    if largest and module.bilevel.accumulates and module.sampling.noise == "batch":
        ways.append(f"model.num_micro_batches {math.ceil(batch_size / largest) * module.num_micro_batches}")
    if mode == "soft" and modes["sampled_largest"]["total"] <= memory:
        ways.append("model.relaxation nas.relaxations.SampledPath at this batch size")
    elif mode == "soft" and modes["sampled_largest"]["largest_batch"]:
        ways.append(
            f"model.relaxation nas.relaxations.SampledPath with data.batch_size {modes['sampled_largest']['largest_batch']}"
        )
    return f"would fit: {', or '.join(ways)}" if ways else "no batch size would fit; take a smaller space"


def _targets(
    module: SearchModule,
    targets: Sequence[Target],
    tables: Mapping[str, CostTable],
    ranges: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The target report with the smallest costs, and whether all limits can be kept at once."""
    if not targets:
        return {}
    report = target_report(targets, smallest={name: row["smallest"] for name, row in ranges.items()})
    reason = infeasibility(module, limits_of(targets, tables))
    return {"limits": report, "can_be_met": not reason, "why": reason}
