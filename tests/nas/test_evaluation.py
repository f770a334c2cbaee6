"""The inputs of a batch as arguments of a network."""

import math

import pytest
import torch
from torch import nn

import nas
from nas.evaluation import as_args, call_network, mean_loss
from nas.supernet.bound import BoundSupernet
from nas.tasks import Classification


class Net(nn.Module):
    """Says which arguments it got."""

    def __init__(self):
        super().__init__()
        self.act = nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh})

    def forward(self, x, mask=None, kind="plain", scale=None, *, hidden=None, **others):
        assert mask is None or mask.dtype == torch.bool
        return self.act(x), mask, kind, scale


class Whole(nn.Module):
    """Takes the dict of a batch."""

    def forward(self, batch):
        return batch["x"] + 1


def test_dicts_are_arguments_by_name_in_any_order_with_defaults_between_them():
    x, mask, scale = torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.ones(2)
    supernet = nas.Supernet(Net())
    weights = supernet.one_hot({"act": "relu"})
    for inputs in ({"x": x}, {"mask": mask, "x": x}, {"scale": scale, "x": x}):
        by_name = supernet.derive({"act": "relu"})(**inputs)
        found = [
            call_network(supernet, inputs, op_weights=weights),
            call_network(BoundSupernet(supernet, weights), inputs),
            supernet.derive({"act": "relu"})(*as_args(inputs, supernet)),
        ]
        for output in found:
            assert torch.equal(output[0], by_name[0]) and output[1:] == by_name[1:]
    assert len(as_args({"mask": mask, "x": x}, supernet)) == 2


def test_a_dict_without_names_of_arguments_is_one_argument():
    batch = {"x": torch.zeros(2)}
    assert torch.equal(call_network(Whole(), batch), torch.ones(2))
    assert as_args((batch, 1), Whole()) == (batch, 1) and as_args(3, Whole()) == (3,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"mask": 1},
            "inputs are mask, but Net takes x, mask, kind, scale by position .missing a required argument: 'x'",
        ),
        ({"x": 1, "hidden": 2}, "inputs are x, hidden, but Net takes x, mask, kind, scale by position"),
        ({"x": 1, "labels": 2}, "inputs are x, labels, but Net takes x, mask, kind, scale by position"),
    ],
)
def test_dicts_that_are_not_the_arguments_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        as_args(inputs, Net())


def test_an_evaluation_leaves_the_mode_of_each_layer():
    network = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout(0.5))
    loss = mean_loss(network, [(torch.zeros(4, 2), torch.zeros(4).long())], Classification(2), torch.device("cpu"))
    assert loss == pytest.approx(0.6931, abs=1e-4)  # ln 2: equal logits
    assert [layer.training for layer in network] == [False, True] and network.training


def test_the_loss_is_the_mean_over_samples_of_unequal_batches():
    torch.manual_seed(0)
    network, x, y = nn.Linear(3, 2), torch.randn(7, 3), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    expected = float(nn.functional.cross_entropy(network(x), y).detach())
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    assert mean_loss(network, batches, Classification(2), torch.device("cpu")) == pytest.approx(expected, rel=1e-6)
    broken = [*batches, (x[:2] * torch.nan, y[:2])]
    assert math.isnan(mean_loss(network, broken, Classification(2), torch.device("cpu")))
