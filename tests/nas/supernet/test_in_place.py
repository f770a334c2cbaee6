"""Candidates that change their input in place, which their siblings read too."""

import pytest
import torch
from torch import nn

import nas
from nas.relaxations import GumbelSoftmax, SampledPath

X = torch.tensor([[-1.0, 2.0]])


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2.0)


def leading():
    return nn.Sequential(nn.Identity(), nn.Sequential(nn.Dropout(0.0), nn.ReLU(inplace=True)), nn.Linear(2, 2))


PLACES = {
    "choice": lambda: nas.choice("c", {"a": nn.ReLU(inplace=True), "b": nn.Identity()}),
    "nested": lambda: nas.choice("c", {"a": leading(), "b": nn.Identity()}),
    "factory": lambda: nas.choice("c", {"a": lambda: nn.Hardswish(inplace=True), "b": nn.Identity}),
    "gate": lambda: nas.gate("c", nn.ReLU6(inplace=True)),
    "repeat": lambda: nas.repeat("c", lambda i: nn.ReLU(inplace=True), (0, 1, 2)),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_label_computes_what_it_computes_alone(place):
    supernet = nas.Supernet(PLACES[place]()).eval()
    for label in supernet.choices["c"]:
        given = X.clone()
        expected = supernet.derive({"c": label})(X.clone())
        assert torch.equal(supernet(given, op_weights=supernet.one_hot({"c": label})), expected)
        assert torch.equal(given, X)
    with nas.architecture({"c": supernet.choices["c"][0]}):
        alone = PLACES[place]()
    given = X.clone()
    alone.eval()(given)
    assert torch.equal(given, X)


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), SampledPath()])
def test_gradients_pass_through_leading_activations(relaxation):
    supernet = nas.Supernet(nn.Sequential(nn.Linear(2, 2), PLACES["nested"](), nn.Linear(2, 1)))
    sample = supernet.sample(relaxation, 1.0)
    supernet(X, op_weights=sample).sum().backward()
    assert supernet.network[0].weight.grad is not None


def test_sums_of_edges_read_the_same_input():
    class Node(nn.Module):
        def __init__(self):
            super().__init__()
            self.edges = nn.ModuleList(
                nas.choice(name, {"a": nn.ReLU(inplace=True), "b": nn.Identity()}) for name in ("first", "second")
            )

        def forward(self, x):
            return nas.mixed_sum(self.edges, [x, x])

    supernet = nas.Supernet(Node())
    choices = {"first": "a", "second": "b"}
    expected = torch.tensor([[-1.0, 4.0]])
    assert torch.equal(supernet(X.clone(), op_weights=supernet.one_hot(choices)), expected)
    assert torch.equal(supernet.derive(choices)(X.clone()), expected)


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), SampledPath()])
def test_what_types_do_not_tell_is_found_at_the_first_forward(relaxation):
    supernet = nas.Supernet(nas.choice("c", {"plain": nn.Identity(), "changing": InPlace()}))
    with pytest.raises(ValueError, match="choice 'c': candidate 'changing' changes its input in place"):
        supernet(X.clone(), op_weights=supernet.sample(relaxation, 1.0))


def test_a_block_that_changes_its_input_is_named():
    supernet = nas.Supernet(nas.repeat("depth", lambda i: InPlace(), (1, 2)))
    with pytest.raises(ValueError, match="choice 'depth': block 0 changes its input in place"):
        supernet(X.clone(), op_weights=supernet.sample(GumbelSoftmax(), 1.0))
