"""Which architectures strategies look at."""

import itertools
import random
from collections import Counter

import torch
from torch import nn

import nas
from nas.alpha import Pairwise
from nas.derive import Evolution, Searched
from nas.derive.pool import candidates, draw
from nas.relaxations import GumbelSoftmax
from nas.supernet.input_choice import InputChoice
from nas.supernet.structure import find_rows
from search_spaces.darts import Darts


def edges_of(pool):
    return {str({name: value for name, value in choices.items() if isinstance(value, list)}) for choices in pool}


def darts():
    space = Darts(search_channels=2, search_layers=3, channels=2, layers=3, auxiliary=False)
    return Searched(supernet=nas.Supernet(space.network()), relaxation=GumbelSoftmax(), space=space)


def test_pools_and_children_vary_the_edges_of_input_choices():
    searched = darts()
    pool = candidates(searched, 32)
    assert len(edges_of(pool)) > 16
    places, source = find_rows(searched.supernet.network), random.Random(0)
    children = [Evolution(mutation=1.0)._child(searched, places, pool[:1], source) for _ in range(32)]
    assert len(edges_of(children)) > 8


def test_inputs_are_drawn_without_replacement_by_their_probabilities():
    place = InputChoice("x", {label: nn.Identity() for label in "abcd"}, 2)
    row = {"a": 0.6, "b": 0.3, "c": 0.1, "d": 0.0}
    source = random.Random(0)
    draws = Counter(tuple(place.draw("x", source, row)) for _ in range(4000))
    for pair in itertools.combinations("abc", 2):  # first one, then the other, either way round
        p, q = row[pair[0]], row[pair[1]]
        expected = p * q / (1 - p) + q * p / (1 - q)
        assert abs(draws[pair] / 4000 - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5
    assert not any("d" in pair for pair in draws)


def test_dependent_choices_are_drawn_together():
    """Two choices that agree in 9 of 10 draws, though each alone is even: marginals would agree in half of them."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nas.choice("one", {"a": nn.Identity, "b": nn.Tanh})
            self.other = nas.choice("other", {"a": nn.Identity, "b": nn.Tanh})

    supernet = nas.Supernet(Net(), distribution=Pairwise())
    with torch.no_grad():
        supernet.distribution.pairs[1, 0] = torch.log(torch.tensor([[9.0, 1.0], [1.0, 9.0]]))
    searched = Searched(supernet=supernet, relaxation=GumbelSoftmax(), space=None)
    draws = draw(searched, random.Random(0))
    counts = Counter(tuple(next(draws).values()) for _ in range(4000))
    for pair, expected in {("a", "a"): 0.45, ("b", "b"): 0.45, ("a", "b"): 0.05, ("b", "a"): 0.05}.items():
        assert abs(counts[pair] / 4000 - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5  # standard errors
