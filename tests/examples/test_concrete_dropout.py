import pytest
import torch


@pytest.fixture(scope="module")
def dropout(load_file):
    return load_file("examples/concrete_dropout/concrete_dropout.py")


@pytest.fixture(scope="module")
def gap(load_file):
    return load_file("examples/concrete_dropout/gap.py")


def test_known_and_unknown_digits_are_kept_apart(dropout):
    data = dropout.split(0)
    assert len(data["train"][1]) == dropout.NUM_TRAIN
    assert all(part[1].max() < 8 for name, part in data.items() if "unknown" not in name)
    assert set(data["test, unknown"][1].tolist()) == {8, 9} and "train, unknown" not in data
    both = torch.cat([data["train"][0], data["validation"][0]])
    assert len(both.unique(dim=0)) == len(both)  # no image on both sides


def test_measures_of_a_network_that_knows_everything(dropout):
    class Oracle(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x):
            scores = torch.nn.functional.one_hot(x[:, 0].long(), 9) * 50.0
            return scores[:, :8] + scores[:, 8:] * self.dropout(torch.ones(len(x), 8))  # draws of unknown digits differ

    y = torch.arange(8).repeat(4)
    data = {"test": (y[:, None].float(), y), "test, unknown": (torch.full((5, 1), 8.0), y[:5])}
    found = dropout.measured(Oracle(), data, 0)
    assert found["accuracy"] == 1.0 and found["nll"] < 1e-6 and found["ece"] < 1e-6
    assert found["epistemic"] == found["total"] == 1.0


def test_data_leave_a_gap(gap):
    x, y = gap.data(0, "train", 4000)
    assert x.abs().min() >= gap.GAP and x.abs().max() <= gap.END and 0.4 < (x > 0).float().mean() < 0.6
    error = y - gap.truth(x)
    assert abs(float(error[x < 0].std()) - 0.05) < 0.005 and abs(float(error[x > 0].std()) - 0.15) < 0.012  # 3 s.e.


def test_uncertainties_of_a_known_network(gap):
    """Its output is 0 outside the gap, and 0 or 4 inside, each with half the draws: an epistemic variance of 4."""

    class Known(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x):
            outside = x.abs() >= gap.GAP
            draw = self.dropout(torch.ones(1))  # 0 or 2
            return torch.where(outside, 0.1 * draw, 2 * draw), 2 * gap.noise(x).log()

    found = gap.measured(Known(), 0)
    assert found[gap.RATIO] == pytest.approx(400)
    assert found["aleatoric error"] < 1e-6


@pytest.mark.slow
def test_epistemic_uncertainty_is_larger_in_the_gap(gap):
    torch.set_num_threads(1)
    found = gap.measured(gap.learned("unit", 0), 0)
    assert found[gap.RATIO] > 3 and found["nll outside"] < -0.5


@pytest.mark.slow
def test_a_known_rate_is_recovered(dropout):
    torch.set_num_threads(1)
    for rate in (0.1, 0.3, 0.5):
        assert dropout.recovered_rate(rate, 0) == pytest.approx(rate, rel=0.2)


@pytest.mark.slow
def test_learned_rates_are_as_likely_as_the_best_of_a_grid(dropout):
    torch.set_num_threads(1)
    rows = [dict(dropout.compare(seed)) for seed in (0, 1)]
    learned, best = (sum(row[name]["nll"] for row in rows) for name in ("learned for each layer", "best fixed"))
    assert learned <= best + 0.02  # of two seeds' sum: a tenth of its spread
