"""Cost targets of a configuration: their tables, the penalty while searching, and whether they can be kept at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from nas.costs.functions import CostFunction, latency_ms
from nas.costs.latency import MeasuredLatency, NotProfiled
from nas.costs.limits import Infeasible, Limit, most_probable
from nas.costs.table import CostTable, ExpectedCost
from nas.costs.tabulate import CostModel, num_chosen
from nas.evaluation import as_args, first_samples, to_device
from nas.io.errors import UsageError, as_usage_error
from nas.io.json_file import read_json, write_json
from nas.io.reading import MAX_COST_TABLE_BYTES
from nas.io.rng import untouched_rng
from nas.runs.config import Experiment
from nas.runs.schema import Target
from nas.supernet.supernet import Supernet
from nas.training.cost_penalty import CostPenalty
from nas.training.search_module import SearchModule

FILE = "cost_tables.json"


def cost_model(experiment: Experiment, device: torch.device) -> CostModel:
    """The cost model of the networks that are retrained: it is they that a limit is about.

    Args:
        experiment: Loaded for the stage ``"retrain"``.
        device: Where modules run when they are timed.

    Raises:
        UsageError: The network does not run, or costs cannot be tabulated.
    """
    inputs, _ = experiment.data.example()
    with as_usage_error("model.cost"), untouched_rng():
        supernet = Supernet(experiment.model["space"].network("retrain")).to(device)
        return CostModel(supernet, as_args(to_device(first_samples(inputs), device)))


def cost_tables(
    experiment: Experiment, device: torch.device, costs: Mapping[str, CostFunction], *, measure: bool
) -> dict[str, CostTable]:
    """The tables of several costs.

    Args:
        experiment: Loaded for the stage ``"retrain"``.
        device: Where latencies are measured.
        costs: cost name -> function.
        measure: Whether latencies that are not known may be measured.

    Raises:
        UsageError: A cost cannot be tabulated, or a latency is not known.
    """
    if not costs:
        return {}
    model = cost_model(experiment, device)
    tables = {}
    for name, function in costs.items():
        measured = function is latency_ms
        latency = MeasuredLatency(device, measure=measure) if measured else None
        try:
            with as_usage_error(f"model.cost: {name}"):
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


def limits_of(targets: Sequence[Target], tables: Mapping[str, CostTable]) -> list[Limit]:
    """The limits of targets."""
    return [Limit(tables[target.name], target.max) for target in targets]


def check_feasible(module: SearchModule, limits: Sequence[Limit]) -> None:
    """Refuses limits that no architecture keeps.

    Raises:
        UsageError: Naming the smallest cost.
    """
    if limits:
        try:
            supernet = module.supernet
            most_probable(supernet.network, supernet.probabilities(), limits, module.space.check_genotype)
        except Infeasible as error:
            raise UsageError(f"model.cost: {error}") from None


def penalise(module: SearchModule, targets: Sequence[Target], tables: Mapping[str, CostTable]) -> None:
    """Adds the penalties of targets to a search.

    Raises:
        UsageError: The retrained network has other choices than the searched one.
    """
    several = num_chosen(module.supernet)
    for target in targets:
        try:
            expected = ExpectedCost(tables[target.name], module.supernet.choices, several)
        except (KeyError, ValueError):
            raise UsageError(
                "model.cost: the network that is retrained has other choices than the one that is searched"
            ) from None
        module.regularizers.append(CostPenalty(expected, target.max, target.weight))


def save_tables(tables: Mapping[str, CostTable], folder: Path) -> None:
    """Keeps the tables of a run, so that a resumed one goes by the same numbers."""
    if tables:
        write_json(folder / FILE, {name: table.to_json() for name, table in tables.items()})


def load_tables(targets: Sequence[Target], folder: Path) -> dict[str, CostTable]:
    """The tables that a run was started with.

    Raises:
        UsageError: The file is missing or damaged.
    """
    if not targets:
        return {}
    path = folder / FILE
    content = read_json(path, f"{path}: missing, so the run's cost targets are not known", MAX_COST_TABLE_BYTES)
    try:
        return {target.name: CostTable.from_json(content[target.name]) for target in targets}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: damaged") from None
