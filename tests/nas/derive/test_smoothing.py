"""Smoothed scores, against scikit-learn's ridge regression on explicit features."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.linear_model import RidgeCV

from nas.derive.ranked import logs
from nas.derive.smoothing import PENALTIES, features_in_common, smoothed

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


@given(st.lists(st.floats(-5, 5), min_size=len(SPACE), max_size=len(SPACE)), st.sampled_from([len(SPACE), 7]))
def test_it_is_ridge_regression_on_labels_and_pairs_with_the_least_leave_one_out_error(scores, num):
    """scikit-learn's RidgeCV takes the penalty of the least leave-one-out error too."""
    x, y = features(SPACE[:num]), np.array(scores[:num])
    fit = RidgeCV(alphas=PENALTIES, fit_intercept=False, store_cv_results=True).fit(x, y - y.mean())
    errors = np.sort(fit.cv_results_.mean(0))
    assume(errors[1] - errors[0] > 1e-9 * (1 + errors[0]))  # otherwise rounding decides between two penalties
    np.testing.assert_allclose(smoothed(SPACE[:num], scores[:num]), fit.predict(x) + y.mean(), atol=1e-6)


def test_architectures_of_other_choices_and_lists_of_labels():
    architectures = [{"a": "x", "k": ["p", "q"]}, {"a": "x"}, {"a": "y", "k": ["q", "r"]}]
    assert features_in_common(architectures).tolist() == [[7, 2, 2], [2, 2, 1], [2, 1, 7]]
    assert smoothed([], []) == [] and smoothed(architectures[:1], [0.3]) == [0.3]


def test_what_labels_and_pairs_explain_is_kept():
    """Scores that are a sum over pairs come back, up to the smallest penalty; noise on top shrinks."""
    rng = np.random.default_rng(0)
    large = [dict(zip("uvwx", labels, strict=True)) for labels in itertools.product("abcd", repeat=4)]
    truth = features(large) @ rng.normal(size=features(large).shape[1])
    np.testing.assert_allclose(
        smoothed(large, truth.tolist()), truth, atol=0.02 * truth.std()
    )  # penalty 0.01 of 16 equal pairs
    noisy = truth + rng.normal(size=len(large))
    assert np.abs(smoothed(large, noisy.tolist()) - truth).mean() < 0.8 * np.abs(noisy - truth).mean()


def test_pure_noise_shrinks_to_its_mean():
    rng = np.random.default_rng(1)
    spread = [np.std(smoothed(SPACE, noise.tolist())) / np.std(noise) for noise in rng.normal(size=(20, len(SPACE)))]
    assert np.mean(spread) < 0.6  # a fit of the 12 scores would give 1


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20))
def test_ranking_smooths_logs_of_losses(losses):
    scores = logs([-loss for loss in losses])
    assert np.exp(-np.array(scores)) == pytest.approx(losses)
    assert logs([*(-loss for loss in losses), 0.5]) == [*(-loss for loss in losses), 0.5]  # a loss below 0 has no log
