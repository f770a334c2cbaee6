"""Test metrics and costs of a run's network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.costs.functions import latency_ms
from nas.evaluation import evaluate
from nas.runs.folder import RunFolder
from nas.runs.networks import find_network
from nas.runs.own.stages import evaluate_own
from nas.runs.results import cost_of
from nas.runs.targets import example_inputs


def evaluate_run(path: Path, trusted: tuple[str, ...] = ()) -> dict[str, Any]:
    """Test metrics and costs of the retrained network, otherwise of the derived network with inherited weights.

    Raises:
        UsageError: The folder is not a run folder, or the run is not finished.
        ValueError: No checkpoint is intact.
    """
    if RunFolder.open(path).is_own_code:
        return evaluate_own(path, trusted)
    found = find_network(path, trusted)
    network, data = found.network, found.experiment.data
    scores = evaluate(network, data.test_dataloader(), found.task, found.device)
    return {
        "network": found.origin,
        **{f"test_{key}": value for key, value in scores.items()},
        **cost_of(network, data),
        "latency_ms": latency_ms(network, example_inputs(network, data)),
        "device": str(found.device),
    }
