import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.relaxations import (
    BinaryConcrete,
    Dirichlet,
    GumbelRao,
    GumbelSoftmax,
    ReinMax,
    Relaxation,
    SampledPath,
    Softmax,
    TwoPath,
    gumbel_noise,
    straight_through,
)
from nas.testing import check_relaxation

PATHWISE = {"soft": GumbelSoftmax(), "hard": GumbelSoftmax(hard=True), "sampled": SampledPath()}
NAMED = {
    "softmax": Softmax(),
    **PATHWISE,
    "reinmax": ReinMax(),
    "rao": GumbelRao(4),
    "dirichlet": Dirichlet(),
    "two_path": TwoPath(),
}
RELAXATIONS, NAMES = list(NAMED.values()), list(NAMED)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=NAMES)
def test_relaxation_keeps_the_rules(relaxation):
    check_relaxation(relaxation)


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=NAMES)
@given(
    scale=st.floats(0, 1e4),
    tau=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**30),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
@settings(max_examples=40, deadline=None)
def test_rows_stay_on_the_simplex_at_any_scale(relaxation, scale, tau, seed, dtype):
    logits = (torch.randn(3, 4, generator=generator(seed)) * scale).clamp(-1e4, 1e4).to(dtype).requires_grad_()
    mask = torch.tensor([[True] * 4, [True, False, True, False], [False, True, True, True]])
    weights = relaxation(logits, tau, mask=mask, generator=generator(seed))
    (gradient,) = torch.autograd.grad((weights * torch.arange(4)).sum(), logits)
    assert torch.isfinite(weights).all() and torch.isfinite(gradient).all()
    assert (weights >= 0).all() and (weights[~mask] == 0).all()
    # float32 rounding of a softmax over 4 terms
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)), atol=1e-5, rtol=0)


@given(scale=st.floats(0, 1e4), tau=st.floats(1e-3, 1e3), seed=st.integers(0, 2**30), hard=st.booleans())
@settings(max_examples=40, deadline=None)
def test_binary_rows_stay_on_the_simplex_at_any_scale(scale, tau, seed, hard):
    logits = (torch.randn(8, 2, generator=generator(seed)) * scale).clamp(-1e4, 1e4).requires_grad_()
    weights = BinaryConcrete(hard)(logits, tau, generator=generator(seed))
    (gradient,) = torch.autograd.grad((weights * torch.arange(2)).sum(), logits)
    assert torch.isfinite(gradient).all() and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(8), atol=1e-6, rtol=0)  # float32


@pytest.mark.parametrize("relaxation", [Softmax(), GumbelSoftmax()], ids=["softmax", "soft"])
def test_limits_of_tau(relaxation):
    logits = torch.randn(100, 5, generator=generator(1))
    hot = relaxation(logits, 1e6, generator=generator(2))
    torch.testing.assert_close(hot, torch.full_like(hot, 0.2), atol=1e-4, rtol=0)
    cold = relaxation(logits, 1e-3, generator=generator(2))
    # a gap of 0.02 between the two largest already gives exp(-20); the few closer rows are not one-hot yet
    assert (cold.max(-1).values > 1 - 1e-6).float().mean() > 0.9


def test_gumbel_max_frequencies_are_softmax():
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    draws = straight_through(logits.expand(200_000, 4) + gumbel_noise(torch.empty(200_000, 4), generator()))
    p = torch.softmax(logits, -1)
    # five standard errors of a frequency over 200,000 draws
    assert ((draws.mean(0) - p).abs() < 5 * (p * (1 - p) / 200_000).sqrt()).all()


def test_gumbel_noise_has_the_moments_of_the_distribution():
    noise = gumbel_noise(torch.empty(1_000_000, dtype=torch.float64), generator())
    assert float(noise.mean()) == pytest.approx(0.5772156649, abs=0.0065)  # 5 standard errors: 5 * 1.2825 / 1000
    assert float(noise.var()) == pytest.approx(1.6449340668, abs=0.02)
    assert torch.isfinite(noise).all()


@pytest.mark.parametrize("relaxation", list(PATHWISE.values()), ids=list(PATHWISE))
def test_gradient_is_that_of_the_soft_weights_under_the_same_noise(relaxation):
    """Central differences of the soft function in float64; straight-through claims the same gradient."""
    logits = torch.randn(2, 4, dtype=torch.float64, generator=generator(3)).requires_grad_()
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    values = torch.randn(2, 4, dtype=torch.float64, generator=generator(4))
    tau = 0.7

    def soft(x):
        noisy = (x + gumbel_noise(x, generator(5))).masked_fill(~mask, -torch.inf)
        return (torch.softmax(noisy / tau, -1) * values).sum()

    (gradient,) = torch.autograd.grad(
        (relaxation(logits, tau, mask=mask, generator=generator(5)) * values).sum(), logits
    )
    eps = 1e-6
    for index in [(i, j) for i in range(2) for j in range(4)]:
        step = torch.zeros_like(logits)
        step[index] = eps
        with torch.no_grad():
            numeric = (soft(logits + step) - soft(logits - step)) / (2 * eps)
        # error of central differences: eps^2 of curvature and 1e-16 / eps of rounding
        torch.testing.assert_close(gradient[index], numeric, atol=1e-8, rtol=1e-6)


def test_straight_through_rows_are_exactly_one_hot():
    soft = torch.softmax(torch.randn(1000, 7, generator=generator(6)), -1).requires_grad_()
    hard = straight_through(soft)
    assert ((hard == 0) | (hard == 1)).all() and (hard.sum(-1) == 1).all()
    (gradient,) = torch.autograd.grad((hard * torch.arange(7.0)).sum(), soft)
    assert torch.equal(gradient, torch.arange(7.0).expand(1000, 7))


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=NAMES)
@pytest.mark.parametrize("tau", [0.0, -1.0, torch.tensor(0.0)])
def test_tau_must_be_positive(relaxation, tau):
    with pytest.raises(ValueError, match="tau must be above 0"):
        relaxation(torch.zeros(2, 3), tau)


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=NAMES)
def test_a_mask_that_removes_everything_is_refused(relaxation):
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ValueError, match="removes every candidate"):
        relaxation(torch.zeros(2, 2), 1.0, mask=mask)


def test_the_checker_catches_wrong_relaxations():
    class Unmasked(Relaxation):
        def forward(self, logits, tau, *, mask=None, generator=None):
            return torch.softmax(logits / tau, -1)

    class Detached(Relaxation):
        def forward(self, logits, tau, *, mask=None, generator=None):
            return Softmax()(logits.detach() + 0 * logits, tau, mask=mask)

    class Global(Relaxation):
        def forward(self, logits, tau, *, mask=None, generator=None):
            return GumbelSoftmax()(logits, tau, mask=mask)

    for wrong, rule in ((Unmasked(), "exactly 0"), (Detached(), "no gradient"), (Global(), "equal generators")):
        with pytest.raises(AssertionError, match=rule):
            check_relaxation(wrong)


@pytest.mark.parametrize("relaxation", [Softmax(), GumbelSoftmax(), TwoPath()], ids=["softmax", "soft", "two_path"])
def test_gradient_by_tau_is_that_of_finite_differences_where_choices_are_ragged(relaxation):
    logits = torch.randn(2, 4, dtype=torch.float64, generator=generator(3))
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    values = torch.randn(2, 4, dtype=torch.float64, generator=generator(4))

    def total(tau):
        return (relaxation(logits, tau, mask=mask, generator=generator(5)) * values).sum()

    tau = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(total(tau), tau)
    numeric = (total(0.8 + 1e-6) - total(0.8 - 1e-6)) / 2e-6
    torch.testing.assert_close(gradient, numeric, atol=1e-8, rtol=1e-6)  # central differences in float64


@pytest.mark.parametrize(
    "relaxation", [GumbelSoftmax(hard=True), SampledPath(), GumbelRao(3)], ids=["hard", "sampled", "rao"]
)
def test_gradient_by_tau_is_finite_where_the_forward_is_one_hot(relaxation):
    tau = torch.tensor(0.8, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    weights = relaxation(torch.randn(2, 4, generator=generator(3)), tau, mask=mask, generator=generator(5))
    (gradient,) = torch.autograd.grad((weights * torch.arange(4)).sum(), tau)
    assert torch.isfinite(gradient) and gradient != 0
