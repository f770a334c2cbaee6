"""Paths of the warm-up: which candidates they name, and how often."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from nas.alpha import Autoregressive, Factorised, Joint, Pairwise
from nas.paths import Fair, Stratified, Uniform

SIZES = st.lists(st.integers(2, 7), min_size=1, max_size=4)


@given(sizes=SIZES, seed=st.integers(0, 2**31), turn=st.integers(0, 1000))
def test_fair_paths_use_each_candidate_once_in_every_turn(sizes, seed, turn):
    for row, size in enumerate(sizes):
        used = [Fair().candidates(sizes, turn * size + i, seed)[row] for i in range(size)]
        assert sorted(used) == list(range(size))


def test_fair_orders_of_two_choices_are_independent():
    """Each of the 9 pairs of candidates of two choices of 3 is equally likely: chi-square of 900 turns, p above 0.001."""
    counts = torch.zeros(3, 3)
    for index in range(2700):
        a, b = Fair().candidates([3, 3], index, 5)
        counts[a, b] += 1
    assert chisquare(counts.flatten()).pvalue > 0.001


def test_uniform_paths_are_uniform_and_a_function_of_seed_and_number():
    paths = [Uniform().candidates([4, 3], index, 1) for index in range(3000)]
    for row, size in enumerate((4, 3)):
        assert chisquare(torch.bincount(torch.tensor(paths)[:, row], minlength=size)).pvalue > 0.001
    assert paths[17] == Uniform().candidates([4, 3], 17, 1)
    assert paths != [Uniform().candidates([4, 3], index, 2) for index in range(3000)]


def joint_of(kind, sizes, seed=None):
    """At rest, or with random logits."""
    kind.build(sizes)
    rows = torch.zeros(len(sizes), max(sizes))
    mask = torch.tensor([[k < size for k in range(max(sizes))] for size in sizes])
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(rows.shape, generator=generator)
        for parameter in kind.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return Joint(kind, rows, mask, sizes)


@given(num=st.integers(2, 6), choices=st.integers(1, 4), seed=st.integers(0, 2**31), turn=st.integers(0, 1000))
def test_stratified_paths_are_fair_while_alpha_is_at_rest(num, choices, seed, turn):
    joint = joint_of(Factorised(), [num] * choices)
    paths = [Stratified().path(joint.at(5.0), turn * num + i, num, seed) for i in range(num)]
    for row in range(choices):
        assert sorted(path[row] for path in paths) == list(range(num))


@pytest.mark.parametrize("kind", [Factorised, Autoregressive, Pairwise])
@pytest.mark.parametrize("place", [0, 2])
def test_each_stratified_path_alone_is_an_exact_sample(kind, place):
    joint = joint_of(kind(), (2, 3), seed=1)
    every = [[a, b] for a in range(2) for b in range(3)]
    chance = torch.softmax(joint.at(0.8).log_prob(torch.tensor(every)).double(), 0).tolist()
    paths = [Stratified().path(joint.at(0.8), 4 * step + place, 4, 3) for step in range(3000)]
    assert chisquare([paths.count(path) for path in every], [3000 * p for p in chance]).pvalue > 0.001


def test_stratified_paths_concentrate_as_tau_falls():
    joint = joint_of(Autoregressive(), (3, 3), seed=2)
    best = joint.most_probable(1)[0][0].tolist()
    shares = []
    for tau in (100.0, 1.0, 0.01):
        shares.append(sum(Stratified().path(joint.at(tau), index, 5, 0) == best for index in range(500)) / 500)
    assert shares[0] == pytest.approx(1 / 9, abs=0.05) and shares[0] < shares[1] < shares[2] == 1.0
