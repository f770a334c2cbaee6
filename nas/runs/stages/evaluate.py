"""Test metrics and costs of a run's network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.costs.functions import latency_ms
from nas.data import SearchDataModule
from nas.evaluation import evaluate
from nas.runs.folder import RunFolder
from nas.runs.networks import find_network
from nas.runs.own.stages import evaluate_own
from nas.runs.results import cost_of
from nas.runs.targets import example_inputs
from nas.tasks import Task


def evaluate_run(path: Path, trusted: tuple[str, ...] = ()) -> dict[str, Any]:
    """Test metrics and costs of the retrained network, otherwise of the derived network with inherited weights.

    Raises:
        UsageError: The folder is not a run folder, or the run is not finished.
        ValueError: No checkpoint is intact.
    """
    if RunFolder.open(path).is_own_code:
        return evaluate_own(path, trusted)
    found = find_network(path, trusted)
    return {"network": found.origin, **figures_of(found.network, found.experiment.data, found.task, found.device)}


def figures_of(network: nn.Module, data: SearchDataModule, task: Task, device: torch.device) -> dict[str, Any]:
    """Test metrics, parameters, MACs and latency of a network; the network is moved to `device`."""
    scores = evaluate(network, data.test_dataloader(), task, device)
    return {
        **{f"test_{key}": value for key, value in scores.items()},
        **cost_of(network, data),
        "latency_ms": latency_ms(network, example_inputs(network, data)),
        "device": str(device),
    }
