import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import nas
from nas.regularizers import AlphaDecay, ArchState, BetaDecay, Entropy, Perturbation, SkipDropout, Sparsity
from nas.relaxations import GumbelSoftmax, SampledPath, Softmax
from nas.tasks import Classification
from nas.tau import Constant

CHOICES = {"a": ("skip_connect", "conv", "pool"), "b": ("conv", "skip_connect")}
MASK = torch.tensor([[True, True, True], [True, True, False]])


def state(alpha=None, progress=0.0, tau=1.0):
    alpha = torch.tensor([[0.3, -1.0, 2.0], [0.5, 0.1, 0.0]], dtype=torch.float64) if alpha is None else alpha
    probabilities = Softmax().probabilities(alpha, MASK)
    return ArchState(CHOICES, alpha, MASK, probabilities, torch.tensor(tau), progress)


def test_entropy_at_tau_and_of_the_probabilities():
    expected = (
        sum(torch.distributions.Categorical(logits=row).entropy() for row in (state().alpha[0], state().alpha[1, :2]))
        / 2
    )
    torch.testing.assert_close(Entropy(3.0).penalty(state()), 3 * expected)
    torch.testing.assert_close(Entropy(3.0, at_tau=True).penalty(state()), 3 * expected)
    halved = [
        torch.distributions.Categorical(logits=row / 2).entropy() for row in (state().alpha[0], state().alpha[1, :2])
    ]
    torch.testing.assert_close(Entropy(1.0, at_tau=True).penalty(state(tau=2.0)), sum(halved) / 2)


def test_schedules_are_straight_lines():
    values = [float(Entropy(-1.0, end_weight=1.0).penalty(state(progress=p))) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    steps = [b - a for a, b in pairwise(values)]
    assert values[2] == pytest.approx(0.0) and steps == pytest.approx([steps[0]] * 4) and values[0] < 0 < values[4]


def test_decays_are_their_formulas():
    assert float(AlphaDecay(0.4).penalty(state())) == pytest.approx(0.2 * (0.09 + 1 + 4 + 0.25 + 0.01))
    rows = [math.log(sum(math.exp(x) for x in row)) for row in ([0.3, -1.0, 2.0], [0.5, 0.1])]
    assert float(BetaDecay(0.0, 50.0).penalty(state(progress=0.5))) == pytest.approx(25 * sum(rows) / 2)
    assert float(BetaDecay().penalty(state(progress=0.0))) == 0.0


def test_sparsity_is_the_mean_probability_of_keeping_over_gates_alone():
    choices = {"a": ("drop", "keep"), "conv": ("x", "y"), "b": ("drop", "keep")}
    alpha = torch.tensor([[0.3, -1.0], [5.0, 0.0], [0.5, 0.1]], dtype=torch.float64)
    its = ArchState(choices, alpha, torch.ones(3, 2).bool(), torch.softmax(alpha, -1), torch.tensor(1.0), 0.5)
    expected = (1 / (1 + math.exp(1.3)) + 1 / (1 + math.exp(0.4))) / 2
    assert float(Sparsity(2.0, end_weight=4.0).penalty(its)) == pytest.approx(3 * expected)
    assert float(Sparsity(2.0).penalty(its)) == pytest.approx(2 * expected)
    assert Sparsity(2.0).penalty(state()) is None


@pytest.mark.parametrize(
    "term",
    [Entropy(0.7), Entropy(0.7, at_tau=True), AlphaDecay(0.7), BetaDecay(0.7, None)],
    ids=lambda t: type(t).__name__,
)
def test_gradients_are_those_of_finite_differences_and_spare_the_padding(term):
    alpha = state().alpha.requires_grad_()
    (gradient,) = torch.autograd.grad(term.penalty(state(alpha, tau=0.6)), alpha)
    for index in [(0, 0), (0, 2), (1, 1)]:
        step = torch.zeros_like(alpha)
        step[index] = 1e-6
        with torch.no_grad():
            slope = (term.penalty(state(alpha + step, tau=0.6)) - term.penalty(state(alpha - step, tau=0.6))) / 2e-6
        assert float(gradient[index]) == pytest.approx(float(slope), rel=1e-6)
    assert gradient[1, 2] == 0


@pytest.mark.parametrize("per_sample", [False, True])
def test_perturbation_stays_on_the_simplex_and_leaves_the_arch_level_alone(per_sample):
    weights = Softmax()(state().alpha.float(), 1.0, mask=MASK)
    if per_sample:
        weights = weights[:, None].expand(-1, 5, -1)
    draws = Perturbation(0.3, None).perturb(weights, state(), "weight", torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-6, rtol=0)  # float32
    assert (draws >= 0).all() and (draws[1, ..., 2] == 0).all() and not torch.equal(draws, weights)
    if per_sample:
        assert not torch.equal(draws[:, 0], draws[:, 1])
    same = Perturbation(0.3, None).perturb(weights, state(), "arch", torch.Generator().manual_seed(0))
    assert torch.equal(same, weights)
    none = Perturbation(0.0, 0.3).perturb(weights, state(), "weight", torch.Generator().manual_seed(0))
    torch.testing.assert_close(none, weights, atol=1e-7, rtol=0)


def test_skip_dropout_drops_skips_alone_and_keeps_their_mean():
    weights = Softmax()(state().alpha, 1.0, mask=MASK)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [SkipDropout(rate=0.4, end_rate=None).perturb(weights, state(), "arch", generator) for _ in range(20_000)]
    )
    skip = torch.tensor([[True, False, False], [False, True, False]])
    assert (draws[:, ~skip] == weights[~skip]).all()
    dropped = (draws[:, skip] == 0).double().mean(0)
    assert ((dropped - 0.4).abs() < 4 * math.sqrt(0.24 / 20_000)).all()  # 4 standard errors of a frequency
    torch.testing.assert_close(draws.mean(0), weights, atol=0.02, rtol=0)
    assert torch.equal(SkipDropout(end_rate=0.0).perturb(weights, state(progress=1.0), "arch", generator), weights)


class Space(nas.SearchSpace):
    def network(self, stage="search"):
        return nn.Sequential(
            nas.choice("a", {"skip_connect": nn.Identity, "conv": lambda: nn.Linear(3, 3)}), nn.Linear(3, 2)
        )


def module(**changes):
    arguments = {
        "space": Space(),
        "relaxation": GumbelSoftmax(),
        "tau": Constant(),
        "task": Classification(2),
    } | changes
    return nas.SearchModule(**arguments)


@pytest.mark.parametrize("regularizer", [Perturbation(), SkipDropout()])
def test_disturbances_are_refused_where_candidates_do_not_run(regularizer):
    with pytest.raises(ValueError, match="do not run under SampledPath"):
        module(relaxation=SampledPath(), regularizers=[regularizer])


def test_noise_per_sample_is_refused_with_a_sampled_path():
    with pytest.raises(ValueError, match="SampledPath runs 1 of each choice"):
        module(relaxation=SampledPath(), noise="sample")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Perturbation(-0.1), "epsilon must be at least 0"),
        (lambda: SkipDropout(labels="skip_connect"), "labels must be a list"),
        (lambda: Entropy(math.nan), "must be finite"),
        (lambda: SkipDropout(rate=1.0), r"rates must lie in \[0, 1\)"),
    ],
)
def test_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
