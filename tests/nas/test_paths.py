"""Paths of the warm-up: which candidates they name, and how often."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from nas.paths import Fair, Uniform

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
