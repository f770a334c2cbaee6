import math
from itertools import pairwise

import pytest
import torch

from nas import tau
from nas.regularizers import ArchState, Entropy
from nas.testing import check_tau_schedule

SCHEDULES = [
    tau.Constant(0.7),
    tau.Linear(5.0, 0.2),
    tau.Exponential(5.0, 0.2),
    tau.Cosine(5.0, 0.2),
    tau.Reheating(tau.Exponential(5.0, 0.2)),
    tau.DiversityReheating(tau.Exponential(5.0, 0.2)),
    tau.LearnedTau(2.0),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_schedule_keeps_the_rules(schedule):
    check_tau_schedule(schedule)


@pytest.mark.parametrize("schedule", SCHEDULES[1:4], ids=lambda s: type(s).__name__)
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


def test_reheating_raises_tau_after_a_collapse_and_returns_to_its_schedule():
    plain = tau.Exponential(5.0, 0.2)
    schedule = tau.Reheating(tau.Exponential(5.0, 0.2), min_entropy=0.4, factor=3.0, duration=0.2, until=0.6)
    schedule.observe(1.0, 0.1)
    assert float(schedule(0.2)) == pytest.approx(float(plain(0.2)))
    schedule.observe(0.3, 0.3)
    ratios = [float(schedule(p)) / float(plain(p)) for p in (0.3, 0.4, 0.5, 0.8)]
    assert ratios == pytest.approx([3.0, 3.0**0.5, 1.0, 1.0], rel=1e-6)
    schedule.observe(0.1, 0.35)  # one is under way: it is not started anew
    assert float(schedule(0.4)) / float(plain(0.4)) == pytest.approx(3.0**0.5, rel=1e-6)
    schedule.observe(0.1, 0.55)
    assert float(schedule(0.55)) / float(plain(0.55)) == pytest.approx(3.0, rel=1e-6)
    late = tau.Reheating(tau.Exponential(5.0, 0.2), min_entropy=0.4, until=0.6)
    late.observe(0.1, 0.6)
    assert float(late(0.6)) == pytest.approx(float(plain(0.6)))


def test_reheating_shows_the_inner_schedule_what_it_sees():
    inner = tau.Reheating(tau.Constant(1.0), min_entropy=0.4)
    outer = tau.Reheating(inner, min_entropy=1e-9)
    outer.observe(0.1, 0.2)
    assert float(outer(0.2)) == pytest.approx(5.0)


def test_a_collapse_of_diversity_reheats_and_the_heat_decays():
    """Against the closed form ``plain(p) * factor ** max(0, 1 - (p - start) / duration)``."""
    plain = tau.Exponential(5.0, 0.2)
    schedule = tau.DiversityReheating(plain, min_share=0.5, factor=3.0, duration=0.2, until=0.6)
    heats = []
    for progress, diversity in ((0.05, 10.0), (0.1, 40.0), (0.2, 20.0), (0.3, 19.0), (0.35, 1.0), (0.55, 30.0)):
        schedule.observe_diversity(diversity, progress)
        heats.append(float(schedule(progress)) / float(plain(progress)))
    assert heats == pytest.approx([1, 1, 1, 3, 3**0.75, 1], rel=1e-6)  # 20 is not below half of the best, 40
    schedule.observe_diversity(0.0, 0.58)  # a second collapse
    found = [float(schedule(p)) / float(plain(p)) for p in (0.58, 0.68, 0.78, 1.0)]
    assert found == pytest.approx([3, 3**0.5, 1, 1], rel=1e-6)
    late = tau.DiversityReheating(plain, reference=100.0, until=0.6)
    late.observe_diversity(1.0, 0.6)
    assert float(late(0.6)) == float(plain(0.6))


def test_a_reference_counts_from_the_first_observation():
    schedule = tau.DiversityReheating(tau.Constant(1.0), min_share=0.5, reference=100.0)
    schedule.observe_diversity(50.0, 0.1)
    assert float(schedule(0.1)) == 1.0
    schedule.observe_diversity(49.0, 0.2)
    assert float(schedule(0.2)) == pytest.approx(5.0)


def test_entropy_and_diversity_reheat_together():
    """One schedule inside the other: each sees what it watches, in both orders."""
    for make in (
        lambda inner: tau.Reheating(tau.DiversityReheating(inner, reference=10.0), min_entropy=0.4),
        lambda inner: tau.DiversityReheating(tau.Reheating(inner, min_entropy=0.4), reference=10.0),
    ):
        schedule = make(tau.Constant(1.0))
        schedule.observe(0.1, 0.2)
        assert float(schedule(0.2)) == pytest.approx(5.0)
        schedule.observe_diversity(1.0, 0.2)
        assert float(schedule(0.2)) == pytest.approx(25.0) and schedule.needs_diversity
    assert not tau.Reheating(tau.Constant(1.0)).needs_diversity


def test_the_best_diversity_survives_state_dict():
    schedule, other = (tau.DiversityReheating(tau.Constant(1.0), min_share=0.5) for _ in range(2))
    schedule.observe_diversity(40.0, 0.1)
    other.load_state_dict(schedule.state_dict())
    other.observe_diversity(19.0, 0.2)
    assert float(other(0.25)) == pytest.approx(5.0**0.5)


@pytest.mark.parametrize("diversity", [math.nan, math.inf, -1.0])
def test_a_wrong_diversity_is_refused_and_changes_nothing(diversity):
    schedule = tau.DiversityReheating(tau.DiversityReheating(tau.Constant(1.0)), reference=10.0)
    before = {key: value.clone() for key, value in schedule.state_dict().items()}
    with pytest.raises(ValueError, match=r"^tau: diversity must be a finite number of at least 0, got \S+$"):
        schedule.observe_diversity(diversity, 0.1)
    assert all(torch.equal(value, before[key]) for key, value in schedule.state_dict().items())


def test_state_of_a_reheating_survives_state_dict():
    schedule = tau.Reheating(tau.Constant(1.0))
    schedule.observe(0.0, 0.25)
    other = tau.Reheating(tau.Constant(1.0))
    other.load_state_dict(schedule.state_dict())
    assert float(other(0.3)) == float(schedule(0.3)) > 1.0


def test_learned_tau_starts_where_it_is_told_and_stays_above_its_floor():
    learned = tau.LearnedTau(2.0, floor=0.1)
    assert learned(0.5).item() == pytest.approx(2.0)
    assert [name for name, _ in learned.named_parameters()] == ["log_excess"]
    with torch.no_grad():
        learned.log_excess.fill_(-50.0)
    assert learned(0.5).item() >= 0.1


def test_an_entropy_bonus_raises_a_learned_tau():
    """The bonus's own derivative by tau is negative for 100 random logits: descent raises tau."""
    for seed in range(100):
        alpha = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        mask = torch.ones(3, 4, dtype=torch.bool)
        mask[0, 2:] = False
        learned = tau.LearnedTau(0.5 + seed / 50)
        state = ArchState({}, alpha, mask, torch.softmax(alpha, -1), learned(0.0), 0.0)
        (gradient,) = torch.autograd.grad(Entropy(-1.0, at_tau=True).penalty(state), learned.log_excess)
        assert gradient < 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tau.Reheating(tau.Constant(), factor=1.0), "factor must be above 1"),
        (lambda: tau.Reheating(tau.Constant(), duration=0.0), "duration must be .* above 0"),
        (lambda: tau.Reheating(tau.Constant(), duration=1.5), "duration must be at most 1"),
        (lambda: tau.Reheating(tau.Constant(), min_entropy=-1.0), "min_entropy"),
        (lambda: tau.DiversityReheating(tau.Constant(), min_share=1.0), "min_share must lie between 0 and 1"),
        (lambda: tau.DiversityReheating(tau.Constant(), min_share=math.nan), "min_share must lie between 0 and 1"),
        (lambda: tau.DiversityReheating(tau.Constant(), reference=0.0), "reference"),
        (lambda: tau.DiversityReheating(tau.Constant(), factor=1.0), "factor must be above 1"),
        (lambda: tau.LearnedTau(0.05, floor=0.05), "above floor"),
        (lambda: tau.LearnedTau(floor=0.0), "floor"),
    ],
)
def test_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
