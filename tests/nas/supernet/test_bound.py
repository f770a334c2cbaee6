import pytest
import torch
from torch import nn

import nas
from nas.relaxations import Softmax
from nas.supernet.bound import BoundSupernet

CANDIDATES = {"a": lambda: nn.Linear(2, 2), "b": nn.Tanh, "c": nn.Identity}


@pytest.mark.parametrize("make", [lambda s: s.sample(Softmax(), 1.0), lambda s: s.one_hot({"op": "b"}, run_all=False)])
def test_a_bound_supernet_is_the_supernet_with_these_op_weights(make):
    supernet = nas.Supernet(nas.choice("op", CANDIDATES))
    op_weights, x = make(supernet), torch.randn(3, 2)
    bound = BoundSupernet(supernet, op_weights)
    assert torch.equal(bound(x), supernet(x, op_weights=op_weights))
    assert set(bound.state_dict()) == {f"supernet.{key}" for key in supernet.state_dict()}
    assert bound.double()(x.double()).dtype == torch.float64  # the weights go where the module goes


def test_the_op_weights_are_copied():
    supernet = nas.Supernet(nas.choice("op", CANDIDATES))
    op_weights = supernet.one_hot({"op": "c"})
    bound = BoundSupernet(supernet, op_weights)
    bound.weights.zero_()
    assert op_weights.weights.sum() == 1
