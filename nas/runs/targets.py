"""Cost targets of a configuration: tables, the penalty during the search, feasibility, and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from nas.costs.functions import COSTS, SHORT_NAMES, CostFunction, latency_ms
from nas.costs.latency import MeasuredLatency, NotProfiled
from nas.costs.limits import Infeasible, Limit, format_cost, most_expensive, most_probable
from nas.costs.table import CostTable, ExpectedCost
from nas.costs.tabulate import CostModel, num_chosen
from nas.data import SearchDataModule
from nas.evaluation import as_args, to_device
from nas.io.errors import UsageError, as_usage_error
from nas.io.json_file import read_json, write_json
from nas.io.reading import MAX_COST_TABLE_BYTES
from nas.io.rng import untouched_rng
from nas.runs.config import Experiment
from nas.runs.schema import Target
from nas.supernet.building import architecture
from nas.supernet.supernet import Supernet
from nas.training.cost_penalty import CostPenalty
from nas.training.search_module import SearchModule

FILE = "cost_tables.json"


def cost_model(experiment: Experiment, device: torch.device) -> CostModel:
    """The cost model of the retrained networks, because limits apply to these.

    `experiment` is loaded for the stage ``"retrain"``. Modules are timed on `device`.

    Raises:
        UsageError: The network does not run, or costs cannot be tabulated.
    """
    with as_usage_error("model.cost"), untouched_rng():
        supernet = Supernet(experiment.model["space"].network("retrain")).to(device)
        return CostModel(supernet, example_inputs(supernet, experiment.data))


def example_inputs(network: nn.Module, data: SearchDataModule, size: int = 1) -> tuple[Any, ...]:
    """Arguments of the network for the first training samples, on its device."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    inputs, _ = data.example(size)
    return as_args(to_device(inputs, device), network)


def cost_tables(
    experiment: Experiment, device: torch.device, costs: Mapping[str, CostFunction], *, measure: bool
) -> dict[str, CostTable]:
    """The tables of several costs (name -> function). `measure` allows measuring unknown latencies on `device`.

    `experiment` is loaded for the stage ``"retrain"``.

    Raises:
        UsageError: A cost cannot be tabulated, or a latency is unknown.
    """
    return tabulated(cost_model(experiment, device), costs, device, measure=measure) if costs else {}


def tabulated(
    model: CostModel,
    costs: Mapping[str, CostFunction],
    device: torch.device,
    *,
    measure: bool,
    where: str = "model.cost",
) -> dict[str, CostTable]:
    """The tables of several costs of one cost model; see :func:`cost_tables`. `where` begins the messages of errors."""
    tables = {}
    for name, function in costs.items():
        measured = function is latency_ms
        latency = MeasuredLatency(device, measure=measure) if measured else None
        try:
            with as_usage_error(f"{where}: {name}"):
                tables[name] = model.table(name, latency or function, measured=measured)
        except UsageError as error:
            if not isinstance(error.__cause__, NotProfiled):
                raise
            raise UsageError(f"{error}: run nas profile with this configuration first") from None
        if latency is not None and latency.num_measured:
            latency.save()
    return tables


def targets_tables(experiment: Experiment, device: torch.device) -> dict[str, CostTable]:
    """The tables of an experiment's targets; latencies must have been measured before."""
    return cost_tables(experiment, device, {t.name: t.function for t in experiment.targets}, measure=False)


def limits_as_numbers(
    limits: Mapping[str, float],
    experiment: Experiment,
    device: torch.device,
    known: Mapping[str, CostTable] = MappingProxyType({}),
) -> tuple[dict[str, dict[str, float]], dict[str, CostTable]]:
    """Limits as values of ``model.cost``, and the tables of their costs: those of `known`, and tables of the others.

    A limit of at most 1 is a share of the cost of the largest network. The name ``latency`` stands for ``latency_ms``. `experiment` is
    loaded for the stage ``"retrain"``.

    Raises:
        UsageError: There is no limit, or a cost is unknown or cannot be tabulated.
    """
    limits = {SHORT_NAMES.get(name, name): value for name, value in limits.items()}
    unknown = [name for name in limits if name not in COSTS]
    if unknown or not limits:
        raise UsageError(f"limit: unknown cost {', '.join(unknown) or None}; expected {', '.join(COSTS)}")
    missing = {name: COSTS[name] for name in limits if name not in known}
    tables = {**known, **cost_tables(experiment, device, missing, measure=True)}
    numbers = dict(limits)
    if shares := [name for name, value in limits.items() if value <= 1]:
        with untouched_rng():
            network = experiment.model["space"].network("retrain")
        for name in shares:
            cost = limits[name] * tables[name].of(most_expensive(network, tables[name]))
            numbers[name] = cost if COSTS[name] is latency_ms else math.floor(cost)
    return {name: {"max": value} for name, value in numbers.items()}, {name: tables[name] for name in limits}


def target_report(targets: Sequence[Target], **known: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """For every cost target: its limit, the known values of the cost, and whether the limit is met.

    Args:
        targets: The targets of a configuration.
        **known: Kind of value -> cost name -> value. The kinds are ``table`` (from the cost table), ``network`` (of the network itself)
            and ``smallest`` (over all architectures). The last kind decides, but the table decides for noisy latencies.
    """
    report = {}
    for target in targets:
        row = {kind: values[target.name] for kind, values in known.items()}
        decides = "table" if "table" in row and target.function is latency_ms else list(row)[-1]
        report[target.name] = {"max": target.max, **row, "met": row[decides] <= target.max}
    return report


def target_lines(report: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A line of text for every row of a target report. Reports of earlier versions have no ``met``."""
    lines = {}
    for name, row in report.items():
        parts = [f"{words} {format_cost(row[kind])}" for kind, words in _KINDS.items() if row.get(kind) is not None]
        if "met" in row:
            yes, no = ("can be met", "cannot be met") if "smallest" in row else ("met", "not met")
            parts.append(yes if row["met"] else no)
        lines[f"target {name}"] = ", ".join(parts)
    return lines


_KINDS = {"max": "at most", "table": "by the table", "network": "the network has", "smallest": "the smallest is"}


def report_of(
    retraining: Experiment, tables: Mapping[str, CostTable], choices: Mapping[str, Any], device: torch.device
) -> dict[str, dict[str, Any]]:
    """The target report of an architecture: costs from the tables, and costs of the retrained network (latency is measured again)."""
    if not retraining.targets:
        return {}
    with untouched_rng(), architecture(choices):
        network = retraining.model["space"].network("retrain").to(device)
    inputs = example_inputs(network, retraining.data)
    return target_report(
        retraining.targets,
        table={name: table.of(choices) for name, table in tables.items()},
        network={target.name: float(target.function(network, inputs)) for target in retraining.targets},
    )


def limits_of(targets: Sequence[Target], tables: Mapping[str, CostTable]) -> list[Limit]:
    """The targets as limits on their cost tables."""
    return [Limit(tables[target.name], target.max) for target in targets]


def infeasibility(module: SearchModule, limits: Sequence[Limit]) -> str:
    """The reason why no architecture keeps the limits, with the smallest cost; empty if an architecture keeps them."""
    if limits:
        supernet = module.supernet
        try:
            most_probable(supernet.network, supernet.probabilities(), limits, module.space.check_genotype)
        except Infeasible as error:
            return str(error)
    return ""


def penalise(module: SearchModule, targets: Sequence[Target], tables: Mapping[str, CostTable]) -> None:
    """Adds the penalties of targets to a search; raises UsageError if the retrained network has other choices."""
    try:
        module.regularizers += penalties(module.supernet, targets, tables)
    except (KeyError, ValueError):
        raise UsageError("model.cost: the retrained network has other choices than the searched network") from None


def penalties(supernet: Supernet, targets: Sequence[Target], tables: Mapping[str, CostTable]) -> list[CostPenalty]:
    """The penalties of targets; raises KeyError or ValueError if the tables are of other choices."""
    expected = [ExpectedCost(tables[t.name], supernet.choices, num_chosen(supernet)) for t in targets]
    return [CostPenalty(cost, t.max, t.weight) for cost, t in zip(expected, targets, strict=True)]


def save_tables(tables: Mapping[str, CostTable], folder: Path) -> None:
    """Writes the tables of a run, so that a resumed run uses the same numbers."""
    if tables:
        write_json(folder / FILE, {name: table.to_json() for name, table in tables.items()})


def load_tables(targets: Sequence[Target], folder: Path) -> dict[str, CostTable]:
    """The cost tables from the start of a run; raises UsageError if the file is missing or damaged."""
    if not targets:
        return {}
    path = folder / FILE
    content = read_json(path, f"{path}: missing, but the run has cost targets", MAX_COST_TABLE_BYTES)
    try:
        return {target.name: CostTable.from_json(content[target.name]) for target in targets}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: damaged") from None
