from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

import nas
from nas.derive.check import check_derived, largest_difference


def one_choice(candidates):
    return nas.Supernet(nn.Sequential(nn.Linear(4, 4), nas.choice("c", candidates), nn.Linear(4, 2)))


def test_a_network_that_is_derived_as_it_was_searched_passes():
    supernet = one_choice({"relu": nn.ReLU, "norm": partial(nn.BatchNorm1d, 4)}).train()
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    for label in ("relu", "norm"):
        check_derived(supernet, {"c": label}, (torch.randn(3, 4),))
    assert supernet.training and all(torch.equal(before[key], value) for key, value in supernet.state_dict().items())


class Gated(nn.Module):
    """Half of the channels gate the other half, so that the first channels are not a narrower layer."""

    def __init__(self):
        super().__init__()
        width = nas.width("w", (2, 4))
        self.write, self.read = nn.Linear(4, 2 * width), nn.Linear(width, 2)

    def forward(self, x):
        return self.read(nn.functional.glu(self.write(x)))


class Chunked(Gated):
    def forward(self, x):
        first, second = self.write(x).chunk(2, -1)
        return self.read(first * 3 + second)


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        width = nas.width("w", (2, 4))
        self.write, self.read = nn.Linear(4, width), nn.Linear(3 * width, 2)

    def forward(self, x):
        return self.read(self.write(x[:, None].expand(-1, 3, -1)).flatten(1))


@dataclass
class Output:
    logits: torch.Tensor


class InDataclass(Chunked):
    def forward(self, x):
        return Output(super().forward(x))


@pytest.mark.parametrize("network", [Gated, Chunked, Flattened, InDataclass])
def test_widths_that_are_read_in_another_order_are_found(network):
    torch.manual_seed(0)
    supernet = nas.Supernet(network())
    check_derived(supernet, {"w": "4"}, (torch.randn(3, 4),))
    with pytest.raises(ValueError, match="the derived network differs from the supernet: outputs"):
        check_derived(supernet, {"w": "2"}, (torch.randn(3, 4),))


@pytest.mark.parametrize(
    ("apart", "said"),
    [(0.0, None), (5e-6, None), (3e-5, "differ by up to 3e-05"), (float("nan"), "differ")],
)
def test_differences_are_shares_of_the_largest_output(apart, said):
    expected = {"a": torch.tensor([0.0, 1.0]), "b": [torch.tensor([2.0])]}
    found = {"a": torch.tensor([apart, 1.0]), "b": [torch.tensor([2.0])]}
    answer = largest_difference(expected, found)
    assert answer is None if said is None else said in answer


def test_other_shapes_and_parts_differ():
    assert "shapes" in largest_difference(torch.zeros(2), torch.zeros(3))
    assert "numbers of tensors" in largest_difference([torch.zeros(2)], [torch.zeros(2), torch.zeros(2)])
    assert largest_difference(torch.tensor([float("nan")]), torch.tensor([float("nan")])) is None
