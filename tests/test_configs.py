"""Every shipped configuration parses and instantiates, and its header says what it is."""

from pathlib import Path

import pytest

from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource
from nas.search_module import SearchModule

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config(path):
    load_experiment(ConfigSource((path,)), stage="retrain")
    experiment = load_experiment(ConfigSource((path,)))
    module = SearchModule(**experiment.model, seed=experiment.seed)
    assert module.supernet.choices
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(header)
    assert "Command:" in text and "Measured:" in text and f"configs/{path.name}" in text


def test_there_are_configs():
    assert CONFIGS
