import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import nas
from nas.costs import num_macs
from nas.supernet.modules import copied


class Keeping(nn.Module):
    """Keeps what it computed, to be looked at."""

    def __init__(self):
        super().__init__()
        self.layer, self.kept = nn.Linear(4, 4), {}

    def forward(self, x):
        self.kept["maps"] = [torch.softmax(self.layer(x), -1)]
        return x * self.kept["maps"][0]


def older_weight_norm():
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(4, 4))


LAYERS = {
    "kept": Keeping,
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "weight norm": older_weight_norm,
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_forward_left_behind_does_not_stop_a_copy(name):
    network = nn.Sequential(LAYERS[name](), nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh}), nn.Linear(4, 2))
    supernet = nas.Supernet(network)
    x = torch.randn(3, 4)
    supernet(x, op_weights=supernet.sample(nas.relaxations.GumbelSoftmax(), 1.0)).sum().backward()
    derived = supernet.derive({"act": "relu"}).eval()
    supernet.eval()
    expected = supernet(x, op_weights=supernet.one_hot({"act": "relu"}))
    assert torch.allclose(derived(x), expected, atol=1e-6)
    assert num_macs(derived, (x,)) == 4 * 4 + 4 * 2 + (
        0 if name != "spectral norm" else num_macs(derived[0], (x,)) - 16
    )
    assert all(p.data_ptr() != q.data_ptr() for p, q in zip(derived.parameters(), network.parameters(), strict=False))


def test_results_are_copied_without_their_graph():
    module = Keeping()
    module(torch.randn(2, 4))
    other = copied(module)
    assert module.kept["maps"][0].grad_fn is not None and other.kept["maps"][0].grad_fn is None
    assert torch.equal(module.kept["maps"][0], other.kept["maps"][0])
