import csv

import pytest


@pytest.fixture(scope="module")
def study(load_file):
    return load_file("scripts/estimator_study.py")


def test_it_writes_what_it_says(study, tmp_path, capsys):
    assert study.main(["--out", str(tmp_path / "out"), "--seeds", "2", "--draws", "200"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "table.md",
        "estimators.csv",
        "estimators.png",
        "surface.png",
    }
    rows = list(csv.DictReader((tmp_path / "out/estimators.csv").read_text().splitlines()))
    assert len(rows) == len(study.LOSSES) * len(study.ESTIMATORS) * len(study.TAUS) * 2
    assert (tmp_path / "out/table.md").read_text() in capsys.readouterr().out


def test_figures_are_in_units_of_the_exact_gradient(study):
    """ReinMax is nearly unbiased on quadratics at tau = 1, and the noise-free estimator has no spread."""
    row = study.measure("quadratic", "ReinMax", 1.0, 0, 20_000)
    assert row["bias"] < 5 * row["bias_error"]
    assert row["cosine"] > 0.99
    assert study.measure("quadratic", "Softmax", 1.0, 0, 100)["spread"] < 1e-6


def test_too_few_draws_are_refused(study, tmp_path, capsys):
    with pytest.raises(SystemExit):
        study.main(["--out", str(tmp_path / "out"), "--draws", "1"])
    assert "must be at least 2" in capsys.readouterr().err and not (tmp_path / "out").exists()
