"""What one architecture costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.costs.functions import COSTS
from nas.costs.latency import device_name
from nas.evaluation import first_samples
from nas.runs.build import build_network
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource
from nas.runs.results import example_inputs
from nas.runs.spaces import read_genotype_of
from nas.runs.targets import target_report
from nas.runs.trainer import prepare_machine


def profile_genotype(path: Path, source: ConfigSource) -> dict[str, Any]:
    """The costs of the retrained network of a genotype, for one sample.

    Args:
        path: A genotype.json, or a text in the space's published notation.
        source: Configuration of its space.

    Raises:
        UsageError: It cannot be read, or is of another space.
    """
    experiment = load_experiment(source, stage="retrain")
    genotype = read_genotype_of(path, experiment)
    device = prepare_machine(experiment.trainer)
    network = build_network(experiment, genotype).to(device).eval()
    inputs = first_samples(example_inputs(network, experiment.data))
    functions = {**COSTS, **{target.name: target.function for target in experiment.targets}}
    costs = {name: function(network, inputs) for name, function in functions.items()}
    return {
        "device": device_name(device),
        "choices": dict(genotype.choices),
        "costs": costs,
        "targets": target_report(experiment.targets, network=costs),
    }
