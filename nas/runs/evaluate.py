"""Test metrics and costs of what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.costs import latency_ms
from nas.evaluation import evaluate, first_sample
from nas.runs.build import refusals, restore_search
from nas.runs.config import load_experiment
from nas.runs.folder import RunFolder
from nas.runs.results import cost_of, example_inputs, inherited_network
from nas.runs.retrain import restore_network, retrain_task
from nas.runs.trainer import prepare_machine


def evaluate_run(path: Path, trusted: tuple[str, ...] = ()) -> dict[str, Any]:
    """Test metrics of the retrained network, else of the derived one with inherited weights.

    Args:
        path: Run folder of a search or a retraining.
        trusted: The user's own modules.

    Raises:
        UsageError: Not a run folder, or not finished.
        ValueError: No checkpoint is whole.
    """
    folder = RunFolder.open(path)
    if folder.stage == "search" and folder.retrain.finished:
        folder = folder.retrain
    stage = folder.stage
    experiment = load_experiment(folder.source(trusted), stage=stage)
    device = prepare_machine(experiment.trainer)
    data = experiment.data
    if stage == "retrain":
        folder.read_summary()  # refuses a retraining that is not finished
        network, task = restore_network(folder, experiment), retrain_task(experiment)
    else:
        genotype = folder.read_genotype()
        module = restore_search(folder, experiment)
        with refusals(str(folder.genotype)):
            network, task = inherited_network(module, genotype, data, device), module.task
    scores = evaluate(network, data.test_dataloader(), task, device)
    one = first_sample(example_inputs(network, data))
    return {
        "network": "retrained" if stage == "retrain" else "derived, inherited weights",
        **{f"test_{key}": value for key, value in scores.items()},
        **cost_of(network, data),
        "latency_ms": latency_ms(network, one),
        "device": str(device),
    }
