"""Smoothed scores, against scikit-learn's ridge regression on explicit features."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from nas.derive.smoothing import features_in_common, smoothed

SPACE = [dict(zip("uvw", labels, strict=True)) for labels in itertools.product("ab", "abc", "ab")]


def features(architectures):
    """The constant, one column a label, one column a pair of labels."""
    items = sorted({item for a in architectures for item in a.items()})
    pairs = list(itertools.combinations(items, 2))
    rows = []
    for a in architectures:
        has = set(a.items())
        rows.append([1.0] + [float(i in has) for i in items] + [float(set(p) <= has) for p in pairs])
    return np.array(rows)


@given(
    st.lists(st.floats(-5, 5), min_size=len(SPACE), max_size=len(SPACE)),
    st.floats(0.1, 100),
)
def test_it_is_ridge_regression_on_labels_and_pairs(scores, penalty):
    x, y = features(SPACE), np.array(scores)
    expected = Ridge(alpha=penalty, fit_intercept=False).fit(x, y - y.mean()).predict(x) + y.mean()
    np.testing.assert_allclose(smoothed(SPACE, scores, penalty), expected, atol=1e-8)


def test_architectures_of_other_choices_and_lists_of_labels():
    architectures = [{"a": "x", "k": ["p", "q"]}, {"a": "x"}, {"a": "y", "k": ["q", "r"]}]
    assert features_in_common(architectures).tolist() == [[7, 2, 2], [2, 2, 1], [2, 1, 7]]
    assert smoothed([], []) == []


def test_what_labels_and_pairs_explain_is_kept():
    """Scores that are a sum over pairs come back (a small penalty); noise on top shrinks."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=features(SPACE).shape[1])
    truth = features(SPACE) @ weights
    np.testing.assert_allclose(smoothed(SPACE, truth.tolist(), 1e-6), truth, atol=1e-3)
    large = [dict(zip("uvwx", labels, strict=True)) for labels in itertools.product("abcd", repeat=4)]
    truth = features(large) @ rng.normal(size=features(large).shape[1])
    noisy = truth + rng.normal(size=len(large))
    assert np.abs(smoothed(large, noisy.tolist()) - truth).mean() < 0.8 * np.abs(noisy - truth).mean()


@pytest.mark.parametrize("penalty", [1e6])
def test_a_large_penalty_gives_the_mean(penalty):
    assert smoothed(SPACE, list(range(12)), penalty) == pytest.approx([5.5] * 12, abs=1e-3)
