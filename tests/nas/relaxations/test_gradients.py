"""Estimators against enumeration, closed forms and finite differences. Draws are seeded, so every figure is the same at each run."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from nas.relaxations import (
    BinaryConcrete,
    Dirichlet,
    GumbelRao,
    GumbelSoftmax,
    ReinMax,
    SampledPath,
    Softmax,
    TwoPath,
    binary_concrete,
    gumbel_max,
    gumbel_noise,
)
from nas.relaxations.estimators import exact_gradient, gradient_draws, quadratic
from nas.relaxations.gumbel_rao import conditional_gumbels

F64 = torch.float64
HARD = {"hard": GumbelSoftmax(hard=True), "sampled": SampledPath(), "reinmax": ReinMax(), "rao": GumbelRao(2)}
ALL = {**HARD, "softmax": Softmax(), "soft": GumbelSoftmax(), "dirichlet": Dirichlet(), "two_path": TwoPath()}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=generator(seed))


def check_frequencies(counts, probabilities):
    """Chi-square at the 1e-4 level: seeded, so it either always passes or never; cells of fewer than 5 expected are joined."""
    expected = probabilities * counts.sum()
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    if expected[-1] < 5:  # still too few: with its neighbour
        observed = np.append(observed[:-2], observed[-2:].sum())
        expected = np.append(expected[:-2], expected[-2:].sum())
    if len(expected) > 1:
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    else:
        assert observed.sum() == counts.sum()


@pytest.mark.parametrize(
    "logits",
    [
        [0.0] * 7,
        torch.randn(10, generator=generator(1)).tolist(),
        (5 * torch.randn(6, generator=generator(2))).tolist(),
        [-1e4, 0.0, 1.0, 1e-3],
        [1e4, 1e4, -1e4],
        [0.3, -math.inf, 1.0, -math.inf, 0.0],
    ],
)
def test_gumbel_max_is_an_exact_categorical_sample(logits):
    draws = gumbel_max(torch.tensor(logits).expand(1_000_000, -1), generator(3)).flatten()
    counts = torch.bincount(draws, minlength=len(logits)).numpy()
    probabilities = torch.softmax(torch.tensor(logits, dtype=F64), -1).numpy()
    assert (counts[probabilities == 0] == 0).all()
    check_frequencies(counts, probabilities)


@pytest.mark.parametrize("relaxation", HARD.values(), ids=HARD)
@pytest.mark.parametrize("tau", [0.1, 3.0])
def test_hard_samples_are_one_hot_and_categorical_at_every_tau(relaxation, tau):
    logits = torch.tensor([1.0, -0.5, 0.2, 2.0])
    mask = torch.tensor([True, True, False, True])
    weights = relaxation(logits.expand(200_000, -1), tau, mask=mask, generator=generator(4))
    assert ((weights == 0) | (weights == 1)).all() and (weights.sum(-1) == 1).all()
    probabilities = torch.softmax(logits.double().masked_fill(~mask, -torch.inf), -1).numpy()
    check_frequencies(weights.sum(0).numpy(), probabilities)


def test_conditional_gumbels_have_the_joint_distribution_of_gumbels():
    """Index and noise drawn in turn are distributed as noise drawn and its argmax: moments and the argmax itself."""
    logits = randn(3, seed=1)
    index = gumbel_max(logits.expand(300_000, 3), generator(1))
    noisy = conditional_gumbels(logits.expand(300_000, 3), index, 1, generator(2))[0]
    assert torch.equal(noisy.argmax(-1, keepdim=True), index)
    noise = noisy - logits
    for column in noise.T:
        assert stats.kstest(column.numpy(), stats.gumbel_r.cdf).pvalue > 1e-4


def numeric(function, logits, eps=1e-6):
    gradient = torch.zeros_like(logits)
    for i in range(logits.numel()):
        step = torch.zeros_like(logits)
        step.view(-1)[i] = eps
        gradient.view(-1)[i] = (function(logits + step) - function(logits - step)) / (2 * eps)
    return gradient


def autograd(relaxation, logits, values, tau, mask, seed):
    logits = logits.clone().requires_grad_()
    weights = relaxation(logits, tau, mask=mask, generator=generator(seed))
    (gradient,) = torch.autograd.grad((weights * values).sum(), logits)
    return weights.detach(), gradient


MASK = torch.tensor([[True] * 4, [True, True, False, True], [True] * 4])
TAU = 0.7


@pytest.mark.parametrize("seed", range(5))
def test_reinmax_gradient_is_its_closed_form(seed):
    logits, values = randn(3, 4, seed=seed), randn(3, 4, seed=seed + 100)
    weights, gradient = autograd(ReinMax(), logits, values, TAU, MASK, seed)
    for row in range(3):
        keep = MASK[row]
        x, v, d = (t[row][keep].numpy() for t in (logits, values, weights))
        p0, pt = (np.exp(y - y.max()) / np.exp(y - y.max()).sum() for y in (x, x / TAU))
        p1 = (d + pt) / 2

        def jacobian(p, v=v):
            return np.diag(p) @ v - p * (p @ v)

        # float64 throughout
        np.testing.assert_allclose(gradient[row][keep].numpy(), 2 * jacobian(p1) - jacobian(p0) / 2, atol=1e-12)
        assert (gradient[row][~keep] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_gumbel_rao_gradient_is_that_of_the_averaged_soft_samples(seed):
    logits, values = randn(3, 4, seed=seed), randn(3, 4, seed=seed + 100)
    _, gradient = autograd(GumbelRao(5), logits, values, TAU, MASK, seed)
    source = generator(seed)
    masked = logits.masked_fill(~MASK, -torch.inf)
    index = gumbel_max(masked, source)
    noise = conditional_gumbels(masked, index, 5, source) - masked

    def surrogate(x):
        soft = torch.softmax(((x.masked_fill(~MASK, -torch.inf) + noise) / TAU).nan_to_num(nan=-torch.inf), -1)
        return (soft.mean(0) * values).sum()

    # central differences in float64: eps^2 of curvature and 1e-16 / eps of rounding
    torch.testing.assert_close(gradient, numeric(surrogate, logits), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_two_path_gradient_reaches_the_pair_alone(seed):
    logits, values = randn(3, 4, seed=seed), randn(3, 4, seed=seed + 100)
    weights, gradient = autograd(TwoPath(), logits, values, TAU, MASK, seed)
    pair = weights != 0
    assert (pair.sum(-1) == 2).all() and (gradient[~pair] == 0).all() and (gradient[pair] != 0).all()

    def soft(x):
        return (torch.softmax((x / TAU).masked_fill(~pair, -torch.inf), -1) * values).sum()

    torch.testing.assert_close(gradient, numeric(soft, logits), atol=1e-8, rtol=1e-6)


def test_two_path_draws_without_replacement():
    p = torch.tensor([0.5, 0.3, 0.2])
    weights = TwoPath()(p.log().expand(200_000, -1), 1.0, generator=generator(5))
    left_out = (weights == 0).sum(0).numpy()
    pairs = np.array([p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in ((1, 2), (0, 2), (0, 1))])
    check_frequencies(left_out, pairs)


def test_two_path_keeps_the_unsampled_where_they_were_and_the_pairs_share():
    import nas

    net = torch.nn.Sequential(nas.choice("c", {str(k): (lambda: torch.nn.Linear(3, 3)) for k in range(5)}))
    supernet = nas.Supernet(net)
    with torch.no_grad():
        supernet.alpha.copy_(torch.tensor([[0.1, -0.4, 0.9, 0.3, 0.0]]))
    before = supernet.alpha.detach().clone()
    relaxation, optimizer = TwoPath(), torch.optim.Adam([supernet.alpha], lr=0.1)
    sample = supernet.sample(relaxation, 1.0, generator=generator(1))
    supernet(torch.randn(4, 3, generator=generator(2)), op_weights=sample).square().sum().backward()
    with torch.no_grad():
        supernet.alpha.grad += 1e-3  # as momentum would move the others
    optimizer.step()
    relaxation.after_arch_step(supernet.alpha, sample)
    pair = sample.active[0]
    others = [k for k in range(5) if k not in pair]
    assert torch.equal(supernet.alpha[0, others], before[0, others]) and not torch.equal(supernet.alpha, before)
    share = [torch.softmax(a, -1)[0, pair].sum() for a in (before, supernet.alpha)]
    torch.testing.assert_close(share[0], share[1], atol=1e-6, rtol=0)  # float32


@pytest.mark.parametrize("hard", [False, True])
def test_binary_concrete_gradient_is_that_of_the_sigmoid(hard):
    log_odds = randn(6, seed=1).requires_grad_()
    values = randn(6, seed=2)
    sample = binary_concrete(log_odds, TAU, hard=hard, generator=generator(3))
    (gradient,) = torch.autograd.grad((sample * values).sum(), log_odds)
    source = generator(3)
    logistic = gumbel_noise(log_odds, source).neg() - gumbel_noise(log_odds, source).neg()
    logistic = logistic.detach()

    def soft(x):
        return (torch.sigmoid((x + logistic) / TAU) * values).sum()

    torch.testing.assert_close(gradient, numeric(soft, log_odds.detach()), atol=1e-8, rtol=1e-6)
    if hard:
        assert set(sample.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
def test_binary_concrete_limits(p):
    log_odds = torch.full((200_000,), math.log(p / (1 - p)))
    cold = binary_concrete(log_odds, 1e-3, generator=generator(1))
    counts = np.array([(cold <= 0.5).sum(), (cold > 0.5).sum()])
    check_frequencies(counts, np.array([1 - p, p]))
    assert ((cold < 0.01) | (cold > 0.99)).float().mean() > 0.99
    hot = binary_concrete(log_odds[:1000], 1e6, generator=generator(2))
    torch.testing.assert_close(hot, torch.full_like(hot, 0.5), atol=1e-4, rtol=0)


def test_binary_concrete_is_gumbel_softmax_of_two_candidates():
    logits = torch.tensor([0.3, -0.9]).expand(100_000, 2)
    ours = BinaryConcrete()(logits, 0.8, generator=generator(1))[:, 1]
    other = GumbelSoftmax()(logits, 0.8, generator=generator(2))[:, 1]
    assert stats.ks_2samp(ours.numpy(), other.numpy()).pvalue > 1e-4
    with pytest.raises(ValueError, match="two candidates only"):
        BinaryConcrete()(torch.zeros(2, 3), 1.0)


def within(draws, exact, errors=3):
    """Whether every component of the mean of draws (N, ...) lies within so many standard errors of `exact`."""
    z = (draws.mean(0) - exact) / (draws.std(0) / math.sqrt(len(draws)))
    return bool((z.abs() < errors).all())


@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_dirichlet_mean_gradient_is_exact(scale):
    """Closed form: E[w_i w_j] = (b_i b_j + [i = j] b_i) / (b (b + 1)), b_i = elu(a_i) + 1, b their sum."""
    logits = scale * randn(1, 4, seed=1)
    linear, matrix = randn(4, seed=2), randn(4, 4, seed=3)

    def objective(w):
        return w[:, 0] @ linear + torch.einsum("ni,ij,nj->n", w[:, 0], matrix, w[:, 0])

    a = logits[0].clone().requires_grad_()
    b = torch.where(a > 0, a + 1, a.exp())
    total = b.sum()
    second = (torch.outer(b, b) + torch.diag(b)) / (total * (total + 1))
    (exact,) = torch.autograd.grad((b / total) @ linear + (second * matrix).sum(), a)
    assert within(gradient_draws(Dirichlet(), objective, logits, 1.0, 400_000, generator(4))[:, 0], exact)
    draws = Dirichlet()(logits.expand(400_000, 4), 1.0, generator=generator(5))
    assert within(draws, Dirichlet().probabilities(logits)[0])


def norm_with_error(draws, exact):
    """Norm of the bias of the mean of draws, and its standard error (first order)."""
    bias = draws.mean(0) - exact
    direction = bias / bias.norm()
    along = (draws * direction).flatten(1).sum(1)
    return float(bias.norm()), float(along.std() / math.sqrt(len(draws)))


@pytest.mark.parametrize("num_candidates", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_reinmax_is_less_biased_than_straight_through_on_quadratics(num_candidates, seed):
    logits, objective = randn(1, num_candidates, seed=seed), quadratic(1, num_candidates, seed)
    exact = exact_gradient(objective, logits)
    biases = [
        norm_with_error(gradient_draws(relaxation, objective, logits, 1.0, 400_000, generator(seed)), exact)
        for relaxation in (GumbelSoftmax(hard=True), ReinMax())
    ]
    (straight, e1), (reinmax, e2) = biases
    assert straight - reinmax > 3 * math.hypot(e1, e2)
    if num_candidates == 2:  # exact in expectation: the norm of pure noise of two equal components
        assert reinmax < 4 * e2


@pytest.mark.parametrize(("num_choices", "num_candidates", "tau"), [(1, 3, 0.5), (2, 4, 0.5), (3, 6, 1.0), (2, 3, 0.1)])
def test_rao_blackwellisation_keeps_the_mean_and_lowers_the_variance(num_choices, num_candidates, tau):
    logits, objective = randn(num_choices, num_candidates, seed=5), quadratic(num_choices, num_candidates, 5)
    straight, rao = (
        gradient_draws(relaxation, objective, logits, tau, 200_000, generator(seed)).flatten(1)
        for relaxation, seed in ((GumbelSoftmax(hard=True), 1), (GumbelRao(10), 2))
    )
    error = ((straight.var(0) + rao.var(0)) / len(rao)).sqrt()
    # 4 standard errors: up to 18 components are looked at
    assert ((straight.mean(0) - rao.mean(0)).abs() < 4 * error).all()
    squares = [(d - d.mean(0)).square().sum(1) for d in (straight, rao)]
    gap, error = (
        squares[0].mean() - squares[1].mean(),
        math.hypot(*(float(s.std()) for s in squares)) / math.sqrt(len(rao)),
    )
    assert gap > 3 * error


@pytest.mark.parametrize(("num_choices", "num_candidates", "seed"), [(1, 2, 0), (2, 3, 7), (3, 3, 3), (3, 6, 4)])
def test_soft_bias_grows_with_tau(num_choices, num_candidates, seed):
    """Up to tau = 1; in the limit the gradient vanishes, so the bias is the exact gradient's own norm."""
    logits, objective = randn(num_choices, num_candidates, seed=seed), quadratic(num_choices, num_candidates, seed)
    exact = exact_gradient(objective, logits)
    biases = [
        norm_with_error(gradient_draws(GumbelSoftmax(), objective, logits, tau, 200_000, generator(1)), exact)
        for tau in (0.1, 0.3, 1.0)
    ]
    for (small, e1), (large, e2) in pairwise(biases):
        assert large - small > 3 * math.hypot(e1, e2)
    limit = gradient_draws(GumbelSoftmax(), objective, logits, 1e3, 1000, generator(1)).mean(0) - exact
    assert float(limit.norm()) == pytest.approx(float(exact.norm()), rel=0.02)


def linear(weights):
    return weights[:, 0, 1]


def logistic_density(a):
    return math.exp(-a) / (1 + math.exp(-a)) ** 2


@pytest.mark.parametrize("a", [0.0, 0.8, -2.0])
def test_soft_variance_grows_as_one_over_tau_and_its_largest_square_as_one_over_tau_squared(a):
    """Closed form for two candidates and a linear loss: p(a) / (6 tau) - p(a)^2, p the logistic density."""
    logits = torch.tensor([[0.0, a]], dtype=F64)
    taus = [0.005, 0.01, 0.02, 0.05, 0.1]
    variances = []
    for tau in taus:
        gradient = gradient_draws(GumbelSoftmax(), linear, logits, tau, 1_000_000, generator(1))[:, 0, 1]
        # draws near a tie, where the gradient is, reach the largest value w (1 - w) / tau = 1 / (4 tau)
        assert float(gradient.max()) * 4 * tau == pytest.approx(1.0, abs=0.01)
        square = gradient.square()
        variances.append(float(gradient.var()))
        if tau <= 0.02:  # the closed form is the limit; corrections are of order tau^2
            p = logistic_density(a)
            error = float(square.std()) / math.sqrt(len(square))
            assert abs(variances[-1] - (p / (6 * tau) - p * p)) < 3 * error
    slope = np.polyfit(np.log(taus), np.log(variances), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.15)


@pytest.mark.parametrize("relaxation", ALL.values(), ids=ALL)
def test_a_cost_penalty_reaches_alpha_under_every_estimator(relaxation):
    alpha = randn(3, 4, seed=3).requires_grad_()
    cost = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3, dtype=F64)
    expected = (relaxation.probabilities(alpha, MASK) * cost).sum()
    (gradient,) = torch.autograd.grad(expected, alpha)
    assert (gradient[MASK] != 0).all() and (gradient[~MASK] == 0).all()
    step = torch.zeros_like(alpha)
    step[0, 0] = 1e-6
    with torch.no_grad():
        up, down = ((relaxation.probabilities(alpha + s, MASK) * cost).sum() for s in (step, -step))
    assert float(gradient[0, 0]) == pytest.approx(float(up - down) / 2e-6, rel=1e-6)
    drawn = (relaxation(alpha, 1.0, mask=MASK, generator=generator(1)) * cost).sum()
    (gradient,) = torch.autograd.grad(drawn, alpha)
    assert torch.isfinite(gradient).all() and bool(gradient.any())


@pytest.mark.parametrize("relaxation", ALL.values(), ids=ALL)
def test_nan_logits_are_refused(relaxation):
    with pytest.raises(ValueError, match="logits hold NaN"):
        relaxation(torch.tensor([[0.0, math.nan]]), 1.0)


def test_gumbel_rao_needs_a_sample():
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        GumbelRao(0)


def test_two_path_runs_the_pair_it_drew_even_when_one_weight_is_nothing():
    import nas

    net = torch.nn.Sequential(
        nas.choice("two", dict.fromkeys("ab", torch.nn.ReLU)), nas.choice("five", dict.fromkeys("abcde", torch.nn.ReLU))
    )
    supernet = nas.Supernet(net)
    with torch.no_grad():
        supernet.alpha.copy_(torch.tensor([[6.0, 0, 0, 0, 0], [0, 0, 0, 0, 12.0]]))
    seconds = set()
    for seed in range(200):
        sample = supernet.sample(TwoPath(), 1e-3, generator=generator(seed))
        assert sample.active[0].tolist() == [0, 1] and sample.active[1, 1] == 4
        seconds.add(int(sample.active[1, 0]))
        assert torch.isfinite(supernet(torch.randn(2, 3), op_weights=sample)).all()
    assert seconds == {0, 1, 2, 3}


def test_two_path_is_not_confused_by_samples_inside_the_network():
    import nas

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.op = nas.choice("op", {k: (lambda: torch.nn.Linear(3, 3)) for k in "abc"})

        def forward(self, x):
            return nas.sample(self.op(x)).square()

    supernet, relaxation = nas.Supernet(Net()), TwoPath()
    sample = supernet.sample(relaxation, 1.0, generator=generator(0))
    supernet(torch.randn(8, 3), op_weights=sample).sum().backward()
    before = supernet.alpha.detach().clone()
    torch.optim.SGD([supernet.alpha], lr=0.1).step()
    relaxation.after_arch_step(supernet.alpha, sample)
    idle = next(k for k in range(3) if k not in sample.active[0])
    assert supernet.alpha[0, idle] == before[0, idle] and not torch.equal(supernet.alpha, before)


def test_exact_gradient_stands_probabilities_that_underflow():
    objective = quadratic(1, 3)
    gradient = exact_gradient(objective, torch.tensor([[0.0, 0.0, -1000.0]], dtype=F64))
    expected = exact_gradient(lambda w: objective(torch.nn.functional.pad(w, (0, 1))), torch.zeros(1, 2, dtype=F64))
    torch.testing.assert_close(gradient[:, :2], expected, atol=1e-12, rtol=0)
    assert gradient[0, 2] == 0
    assert torch.isfinite(exact_gradient(objective, torch.zeros(1, 3))).all()  # float32 is taken too
