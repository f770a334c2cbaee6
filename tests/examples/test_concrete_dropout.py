import pytest
import torch


@pytest.fixture(scope="module")
def dropout(load_file):
    return load_file("examples/concrete_dropout/concrete_dropout.py")


def test_known_and_unknown_digits_are_kept_apart(dropout):
    data = dropout.split(0)
    assert len(data["train"][1]) == dropout.NUM_TRAIN
    assert all(part[1].max() < 8 for name, part in data.items() if "unknown" not in name)
    assert set(data["test, unknown"][1].tolist()) == {8, 9} and "train, unknown" not in data
    both = torch.cat([data["train"][0], data["validation"][0]])
    assert len(both.unique(dim=0)) == len(both)  # no image on both sides


def test_measures_of_a_network_that_knows_everything(dropout):
    class Oracle(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(x[:, 0].long(), 9)[:, :8] * 50.0

    y = torch.arange(8).repeat(4)
    data = {"test": (y[:, None].float(), y), "test, unknown": (torch.full((5, 1), 8.0), y[:5])}
    found = dropout.measured(Oracle(), data, 0)
    assert found["accuracy"] == 1.0 and found["nll"] < 1e-6 and found["ece"] < 1e-6 and found["auroc"] == 1.0


@pytest.mark.slow
def test_a_known_rate_is_recovered(dropout):
    torch.set_num_threads(1)
    for rate in (0.1, 0.3, 0.5):
        assert dropout.recovered_rate(rate, 0) == pytest.approx(rate, rel=0.2)


@pytest.mark.slow
def test_learned_rates_are_as_likely_as_the_best_of_a_grid(dropout):
    torch.set_num_threads(1)
    rows = [dict(dropout.compare(seed)) for seed in (0, 1)]
    learned, best = (sum(row[name]["nll"] for row in rows) for name in ("learned", "best fixed"))
    assert learned <= best + 0.02  # of two seeds' sum: a tenth of its spread
