"""The latency of the networks of a launch, measured after all searches, one network at a time."""

from __future__ import annotations

from collections.abc import Sequence

from nas.costs.functions import latency_ms
from nas.genotype import key_of
from nas.io.errors import UsageError
from nas.io.json_file import Document
from nas.launch.trials import Plan, Trial
from nas.runs.networks import find_network
from nas.runs.targets import example_inputs

FILE = "latencies.json"
DOCUMENT = Document("latencies", "gumbel-nas/latencies")


def measure_latencies(plan: Plan, trials: Sequence[Trial]) -> None:
    """Writes latencies.json: the milliseconds of one sample for each retrained network. Networks in the file are not measured again.

    Trials of one method with the same architecture share a measurement.
    """
    known = read_latencies(plan)
    by_architecture = {}
    for trial in trials:
        run = plan.run(trial).retrain
        if not run.finished:
            continue
        key = (trial.method, key_of(run.read_genotype().choices))
        if trial.name not in known:
            if key not in by_architecture:
                found = find_network(run.path, plan.trusted)
                by_architecture[key] = latency_ms(found.network, example_inputs(found.network, found.experiment.data))
            known[trial.name] = by_architecture[key]
            DOCUMENT.save(plan.folder / FILE, {"latency_ms": known})
        by_architecture[key] = known[trial.name]


def read_latencies(plan: Plan) -> dict[str, float]:
    """Name of a trial -> milliseconds; empty before the measurement."""
    path = plan.folder / FILE
    if not path.is_file():
        return {}
    found = DOCUMENT.load(path).get("latency_ms")
    if not isinstance(found, dict) or not all(type(value) in (int, float) for value in found.values()):
        raise UsageError(f"{path}: latency_ms must map names of trials to milliseconds")
    return found
