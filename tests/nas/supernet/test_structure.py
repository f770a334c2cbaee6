import itertools
import random

import pytest
from torch import nn

import nas
import nas.supernet.candidates
from nas.supernet.structure import active_choices, all_choices, num_architectures


def random_network(seed):
    """A random tree of choices, names shared here and there."""
    draw = random.Random(seed)
    names = iter(f"n{i}" for i in itertools.count())

    def module(depth):
        kind = draw.random()
        if depth == 0 or kind < 0.3:
            return nn.Identity()
        if kind < 0.5:
            return nn.Sequential(*[module(depth - 1) for _ in range(2)])
        if kind < 0.65:
            return nas.choice("shared", {"a": nn.ReLU, "b": nn.Tanh}, shared=True)
        labels = "abc"[: draw.randint(2, 3)]
        return nas.choice(next(names), {label: module(depth - 1) for label in labels})

    return nn.Sequential(module(3), module(3))


@pytest.mark.parametrize("seed", range(40))
def test_count_equals_enumeration(seed):
    network = random_network(seed)
    supernet = nas.Supernet(network)
    names = list(supernet.choices)
    total = 1
    for labels in supernet.choices.values():
        total *= len(labels)
    if total > 20_000:
        pytest.skip("too many assignments to enumerate")
    seen = set()
    for labels in itertools.product(*supernet.choices.values()):
        seen.add(tuple(active_choices(network, dict(zip(names, labels, strict=True))).items()))
    assert num_architectures(network) == len(seen)
    listed = [tuple(choices.items()) for choices in all_choices(network)]
    assert len(listed) == len(seen) and set(listed) == seen


def test_lists_gates_and_search_only_labels_are_enumerated():
    """Two of three inputs: 3 ways; 3 gated features, not all dropped: 7; a candidate of the search only: 1 of 2 counts."""
    network = nn.Sequential(
        nas.inputs("node", {label: nn.Identity for label in "abc"}, k=2),
        nas.gate("features", lambda n: nn.Linear(n, 4), size=3),
        nas.choice(
            "op", {"relu": nn.ReLU, "none": nas.supernet.candidates.Zero, "tanh": nn.Tanh}, search_only=("none",)
        ),
    )
    listed = [tuple(sorted((name, str(value)) for name, value in c.items())) for c in all_choices(network)]
    assert len(listed) == len(set(listed)) == num_architectures(network) == 3 * 7 * 2


def test_large_spaces_are_counted_at_once():
    network = nn.Sequential(*[nas.choice(f"c{i}", {"a": nn.ReLU, "b": nn.Tanh, "c": nn.Identity}) for i in range(200)])
    assert num_architectures(network) == 3**200


def test_shared_choices_inside_many_others_are_counted_quickly():
    """n outer choices, each with the one shared inner choice in a candidate: all without it, or some with it and its 2 labels."""
    n = 40

    def outer(i):
        inner = {"p": nn.ReLU, "q": nn.Tanh}
        return nas.choice(
            f"outer{i}", {"plain": nn.Identity, "deep": lambda: nn.Sequential(nas.choice("inner", inner, shared=True))}
        )

    assert nas.Supernet(nn.Sequential(*(outer(i) for i in range(n)))).num_architectures == 1 + 2 * (2**n - 1)
