import math
from itertools import pairwise

import pytest
import torch

from nas import tau
from nas.testing import check_tau_schedule

SCHEDULES = [tau.Constant(0.7), tau.Linear(5.0, 0.2), tau.Exponential(5.0, 0.2), tau.Cosine(5.0, 0.2)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_schedule_keeps_the_rules(schedule):
    check_tau_schedule(schedule)


@pytest.mark.parametrize("schedule", SCHEDULES[1:], ids=lambda s: type(s).__name__)
def test_ends_are_met_and_tau_falls(schedule):
    values = [float(schedule(i / 100)) for i in range(101)]
    assert values[0] == pytest.approx(5.0)
    assert values[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in pairwise(values))


def test_midpoints_are_those_of_the_closed_forms():
    assert float(tau.Linear(5.0, 0.2)(0.5)) == pytest.approx((5.0 + 0.2) / 2)
    assert float(tau.Exponential(5.0, 0.2)(0.5)) == pytest.approx(math.sqrt(5.0 * 0.2))
    assert float(tau.Cosine(5.0, 0.2)(0.25)) == pytest.approx(0.2 + 4.8 * (1 + math.sqrt(0.5)) / 2)
    assert float(tau.Constant(0.7)(0.3)) == pytest.approx(0.7)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "make", [lambda v: tau.Constant(v), lambda v: tau.Exponential(v, 1.0), lambda v: tau.Linear(1.0, v)]
)
def test_only_positive_finite_tau(make, bad):
    with pytest.raises(ValueError, match="must be a finite number above 0"):
        make(bad)


def test_progress_outside_the_search_is_refused():
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\]"):
        tau.Linear()(1.5)


def test_the_checker_catches_wrong_schedules():
    class Negative(tau.TauSchedule):
        def forward(self, progress):
            return torch.tensor(0.5 - progress)

    class Forgetful(tau.TauSchedule):
        def __init__(self):
            super().__init__()
            self.seen = 0.0

        def forward(self, progress):
            return torch.tensor(1.0 + self.seen)

        def observe(self, mean_entropy, progress):
            self.seen += mean_entropy

    with pytest.raises(AssertionError, match="above 0"):
        check_tau_schedule(Negative())
    with pytest.raises(AssertionError, match="state_dict"):
        check_tau_schedule(Forgetful())
