"""Every estimator searches the digits space from one configuration by naming its class alone."""

from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[3] / "configs" / "dilation_gumbel_digits.yaml"
CLASSES = ["Softmax", "GumbelSoftmax", "SampledPath", "ReinMax", "GumbelRao", "Dirichlet", "TwoPath"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_estimator_searches_the_digits(run_cli, tmp_path, name):
    words = (
        "search",
        "--config",
        CONFIG,
        "--out",
        tmp_path / "run",
        "--model.relaxation",
        f"nas.relaxations.{name}",
        "--json",
    )
    answer = run_cli(*words)
    assert answer.code == 0, answer.err
    assert answer.result["num_architectures"] == 125 and len(answer.result["genotype"]) == 3
    print(f"\n{name}: search {answer.result['search_seconds']:.1f} s, {answer.result['metric']['value']:.3f}")
