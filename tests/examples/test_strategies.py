"""The derive strategies of the examples: their configurations load, and so do both dotted paths of each class."""

from pathlib import Path

import pytest

from nas.derive import FineTuned, Perturbation
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource

ROOT = Path(__file__).parents[2]
STRATEGIES = {"perturbation": Perturbation, "fine_tuned": FineTuned}


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_example_changes_the_ranking_configuration(name):
    source = ConfigSource((ROOT / "configs/dilation_ranked_digits.yaml", ROOT / "examples" / name / f"{name}.yaml"))
    strategy = STRATEGIES[name]
    assert type(load_experiment(source).derive) is strategy
    by_module = source.overridden("model.derive", f"nas.derive.{name}.{strategy.__name__}")
    assert type(load_experiment(by_module).derive) is strategy
