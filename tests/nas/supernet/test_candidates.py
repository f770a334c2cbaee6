"""Projection and SumInputs."""

import pytest
import torch
from torch import nn

import nas
from nas.relaxations import GumbelSoftmax
from nas.supernet.candidates import SumInputs


def test_projection_joins_candidates_of_different_shape():
    def network():
        return nas.choice(
            "op",
            {
                "wide": lambda: nas.Projection(nn.Conv2d(3, 32, 5, stride=2, padding=2), 32, 8, size=(8, 8)),
                "narrow": lambda: nas.Projection(nn.Conv2d(3, 4, 3, padding=1), 4, 8),
                "plain": lambda: nn.Conv2d(3, 8, 1),
            },
        )

    supernet = nas.Supernet(network())
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"differ in shape .* nas\.Projection gives them a common shape"):
        shapes = nas.Supernet(nas.choice("op", {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 8, 1)}))
        shapes(x, op_weights=shapes.sample(GumbelSoftmax(), 1.0))
    with pytest.raises(ValueError, match="differ in shape"):  # pooled to 8 x 8 from 4 x 4: not enlarged by itself
        bad = nas.Supernet(nas.choice("op", {"a": nn.Conv2d(3, 8, 1, stride=2), "b": nn.Conv2d(3, 8, 1)}))
        bad(x, op_weights=bad.sample(GumbelSoftmax(), 1.0))
    assert supernet(x, op_weights=supernet.sample(GumbelSoftmax(), 1.0)).shape == (2, 8, 8, 8)
    for label in ("wide", "narrow", "plain"):
        choices = {"op": label}
        derived = supernet.derive(choices)
        assert torch.equal(supernet(x, op_weights=supernet.one_hot(choices)), derived(x))
        with nas.architecture(choices):
            assert network().state_dict().keys() == derived.state_dict().keys()


@pytest.mark.parametrize(("dim", "shape"), [(0, ()), (1, (6,)), (2, (6, 5)), (3, (4, 5, 6))])
def test_projection_in_every_number_of_dimensions(dim, shape):
    size = tuple(2 for _ in shape) if shape else None
    projection = nas.Projection(nn.Identity(), 3, 7, dim=dim, size=size)
    assert projection(torch.randn(2, 3, *shape)).shape == (2, 7, *(size or ()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 4}, "dim must be 0, 1, 2 or 3, got 4"),
        ({"dim": 1, "size": (2, 2)}, r"size must have 1 numbers, got \[2, 2\]"),
    ],
)
def test_bad_projections(arguments, message):
    with pytest.raises(ValueError, match=message):
        nas.Projection(nn.Identity(), 3, 7, **arguments)


def test_sum_of_chosen_inputs():
    summed = SumInputs({0: nn.Identity(), 2: nn.Tanh()})
    x, y, z = torch.randn(3, 4)
    assert torch.equal(summed([x, y, z]), x + z.tanh())
