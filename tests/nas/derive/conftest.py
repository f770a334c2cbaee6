import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn

import nas
from nas.derive import Searched
from nas.relaxations import Softmax
from nas.tasks import Classification

LABELS = ("lin", "wide", "skip")


class Space(nas.SearchSpace):
    """Two choices of three candidates, then a head."""

    def __init__(self, head=None, forbidden=None):
        self.head = head or nn.Linear(4, 3)
        self.forbidden = forbidden

    def network(self, stage="search"):
        def wide():
            return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.BatchNorm1d(4))

        def op(name):
            return nas.choice(name, {"lin": partial(nn.Linear, 4, 4), "wide": wide, "skip": nn.Identity})

        return nn.Sequential(op("a"), nn.ReLU(), op("b"), nn.BatchNorm1d(4), copy.deepcopy(self.head))

    def check_genotype(self, choices):
        if dict(choices) == self.forbidden:
            raise ValueError("forbidden")


def half(seed, n=40):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=g)
    return [(part, (part[:, 0] > 0).long() + (part[:, 1] > 0).long()) for part in x.split(16)]


@pytest.fixture
def make():
    """The end of a search of a space, weights untrained."""

    def searched(space, **changes):
        torch.manual_seed(0)
        supernet = nas.Supernet(space.network())
        with torch.no_grad():
            supernet.alpha.copy_(torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.0, 0.1]]))
        return Searched(
            **{
                "supernet": supernet,
                "relaxation": Softmax(),
                "space": space,
                "task": Classification(3),
                "weight_batches": lambda: half(1),
                "arch_batches": lambda: half(2),
            }
            | changes
        )

    return searched


@pytest.fixture
def space():
    """Makes the space."""
    return Space


@pytest.fixture
def searched(make):
    torch.manual_seed(1)  # the head's weights
    return make(Space())


@pytest.fixture
def everything():
    """All nine architectures."""
    return [dict(zip("ab", labels, strict=True)) for labels in itertools.product(LABELS, repeat=2)]
