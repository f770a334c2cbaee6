"""Latencies of a launch: which networks are measured, and what a stop in the middle keeps. The clock is replaced."""

from types import SimpleNamespace

import pytest
from made_up_launch import write_launch

from nas.genotype import Genotype
from nas.launch import latency
from nas.launch.latency import DOCUMENT, FILE, measure_latencies, read_latencies

LABELS = {"a_seed0": "x", "a_seed1": "y", "a_seed2": "x", "b_seed0": "x", "b_seed1": "x"}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A launch, and the names of the trials whose networks are measured."""
    plan, trials, _ = write_launch(tmp_path / "all", {"a": {}, "b": {}}, [0, 1, 2], unfinished=["b_seed2"])
    for trial in trials:
        if trial.name in LABELS:
            Genotype({"conv": LABELS[trial.name]}).save(plan.run(trial).retrain.genotype)
    measured = []

    def find(path, trusted):
        measured.append(path.parent.name)
        return SimpleNamespace(network=None, experiment=SimpleNamespace(data=None))

    monkeypatch.setattr(latency, "find_network", find)
    monkeypatch.setattr(latency, "example_inputs", lambda network, data: ())
    monkeypatch.setattr(latency, "latency_ms", lambda network, inputs: float(len(measured)))
    return plan, trials, measured


def test_equal_networks_of_a_method_are_measured_once(made):
    plan, trials, measured = made
    measure_latencies(plan, trials)
    assert measured == ["a_seed0", "a_seed1", "b_seed0"]  # methods may change the sizes of equal choices
    known = {"a_seed0": 1.0, "a_seed1": 2.0, "a_seed2": 1.0, "b_seed0": 3.0, "b_seed1": 3.0}
    assert read_latencies(plan) == known
    del known["a_seed2"]
    DOCUMENT.save(plan.folder / FILE, {"latency_ms": known})
    measure_latencies(plan, trials)
    assert len(measured) == 3 and read_latencies(plan)["a_seed2"] == 1.0


def test_a_stop_in_the_middle_keeps_what_was_measured(made, monkeypatch):
    plan, trials, measured = made
    find = latency.find_network

    def stop(path, trusted):
        if measured:
            raise KeyboardInterrupt
        return find(path, trusted)

    monkeypatch.setattr(latency, "find_network", stop)
    with pytest.raises(KeyboardInterrupt):
        measure_latencies(plan, trials)
    assert read_latencies(plan) == {"a_seed0": 1.0}
    monkeypatch.setattr(latency, "find_network", find)
    measure_latencies(plan, trials)
    assert measured == ["a_seed0", "a_seed1", "b_seed0"] and set(read_latencies(plan)) == set(LABELS)
