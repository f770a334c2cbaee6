"""Skip connections: how many there are, and architectures with at most a share of them."""

import itertools
from functools import partial

import pytest
from torch import nn

import nas
from nas.costs.limits import most_probable
from nas.derive.skips import collapsed, skip_limit, skip_share, skips_of


def network():
    """Three choices with a skip, one nested inside another, one without."""
    ops = {"conv": partial(nn.Linear, 3, 3), "identity": nn.Identity}
    deep = lambda: nn.Sequential(nas.choice("inner", ops), nn.ReLU())  # noqa: E731
    return nn.Sequential(
        nas.choice("first", ops),
        nas.choice("second", {"deep": deep, "skip_connect": partial(nn.Linear, 3, 3)}),
        nas.choice("third", {"a": nn.ReLU, "b": nn.Tanh}),
    )


def everything():
    for first, second, third in itertools.product(("conv", "identity"), ("deep", "skip_connect"), "ab"):
        inner = ("conv", "identity") if second == "deep" else (None,)
        for label in inner:
            choices = {"first": first, "second": second, "third": third}
            yield choices | ({"inner": label} if label else {})


def test_skips_are_known_by_their_names_and_by_being_identities():
    assert skips_of(network()) == {
        "first": {"identity"},
        "second": {"skip_connect"},
        "inner": {"identity"},
    }
    assert skip_share(skips_of(network()), {"third": "a"}) == 0
    assert skip_share(skips_of(network()), {"first": "conv", "second": "skip_connect", "third": "a"}) == 0.5


@pytest.mark.parametrize("max_share", [0.0, 0.3, 1 / 3, 0.5, 0.6, 1.0])
def test_the_limit_lets_through_what_has_at_most_the_share(max_share):
    """Shares are of the choices that are active: 1 of 3 with the inner one, 1 of 2 without."""
    limit = skip_limit(network(), max_share)
    for choices in everything():
        share = skip_share(skips_of(network()), choices)
        assert (limit.table.of(choices) <= limit.max) == (share <= max_share + 1e-12), choices


@pytest.mark.parametrize("max_share", [0.0, 1 / 3, 0.5])
def test_the_most_probable_architecture_within_the_share(max_share):
    probabilities = {
        "first": {"conv": 0.1, "identity": 0.9},
        "second": {"deep": 0.3, "skip_connect": 0.7},
        "inner": {"conv": 0.2, "identity": 0.8},
        "third": {"a": 0.4, "b": 0.6},
    }

    def probability(choices):
        result = 1.0
        for name, label in choices.items():
            result *= probabilities[name][label]
        return result

    allowed = [c for c in everything() if skip_share(skips_of(network()), c) <= max_share + 1e-12]
    found = most_probable(network(), probabilities, [skip_limit(network(), max_share)])
    assert found == max(allowed, key=probability)


def test_a_shared_choice_counts_once():
    pair = nn.Sequential(*(nas.choice("op", {"conv": nn.ReLU, "skip": nn.Identity}, shared=True) for _ in range(2)))
    assert skip_limit(pair, 0.5).table.of({"op": "skip"}) == 0.5


def test_few_choices_do_not_collapse():
    skips = {name: frozenset({"skip"}) for name in "abcd"}
    assert collapsed(skips, dict.fromkeys("abcd", "skip"), 0.75)
    assert not collapsed(skips, dict.fromkeys("abc", "skip") | {"d": "conv"}, 0.75)
    assert not collapsed(skips, dict.fromkeys("abc", "skip"), 0.75)
