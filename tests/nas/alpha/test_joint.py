"""Distributions over architectures: compared with sums over all paths that are written out here."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

import nas
from nas.alpha import Autoregressive, Factorised, Joint, Pairwise
from nas.alpha import joint as module
from nas.bilevel import score_loss
from nas.relaxations import GumbelSoftmax, SampledPath, Softmax

SIZES = (2, 3, 2)
PATHS = list(itertools.product(*map(range, SIZES)))


def made(kind, seed=0):
    """A distribution of random float64 logits, its parameters, and the probability of each path, choice by choice in Python."""
    generator = torch.Generator().manual_seed(seed)
    kind.build(SIZES)
    kind.double()
    rows = torch.randn(3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    for parameter in kind.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[k < size for k in range(3)] for size in SIZES])
    return Joint(kind, rows, mask, SIZES), [rows, *kind.parameters()]


def written_out(joint, tau=1.0):
    """Path -> probability."""
    rows, pairs = joint.rows.tolist(), dict(joint.kind.named_parameters()).get("pairs")
    if isinstance(joint.kind, Pairwise):
        factors = {
            path: math.exp(
                sum(
                    rows[row][path[row]] + sum(pairs[row, j, path[j], path[row]].item() for j in range(row))
                    for row in range(3)
                )
                / tau
            )
            for path in PATHS
        }
        return {path: factor / sum(factors.values()) for path, factor in factors.items()}
    result = {}
    for path in PATHS:
        probability = 1.0
        for row, size in enumerate(SIZES):
            logits = [
                (rows[row][k] + sum(pairs[row, j, path[j], k].item() for j in range(row) if pairs is not None)) / tau
                for k in range(size)
            ]
            total = sum(map(math.exp, logits))
            probability *= math.exp(logits[path[row]]) / total
        result[path] = probability
    return result


KINDS = pytest.mark.parametrize("kind", [Factorised, Autoregressive, Pairwise])
DEPENDENT = pytest.mark.parametrize("kind", [Autoregressive, Pairwise])


@KINDS
@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_probabilities_marginals_entropy_and_modes_are_those_of_all_paths(kind, tau):
    joint, _ = made(kind())
    joint, expected = joint.at(tau), written_out(joint, tau)
    assert sum(expected.values()) == pytest.approx(1)
    found = joint.log_prob(torch.tensor(PATHS)).exp().tolist()
    assert found == pytest.approx(list(expected.values()), rel=1e-12)
    paths, probabilities = joint.most_probable(4)
    best = sorted(expected, key=expected.__getitem__, reverse=True)[:4]
    assert [tuple(path) for path in paths.tolist()] == best
    assert probabilities.tolist() == pytest.approx([expected[path] for path in best])
    entropy, exact = joint.entropy()
    assert exact and entropy == pytest.approx(-sum(p * math.log(p) for p in expected.values()))
    marginals = joint.marginals(Softmax()).tolist()
    for row, size in enumerate(SIZES):
        for k in range(3):
            sums = sum(p for path, p in expected.items() if path[row] == k) if k < size else 0.0
            assert marginals[row][k] == pytest.approx(sums, abs=1e-12)


@KINDS
def test_draws_are_exact(kind):
    joint, _ = made(kind())
    expected = written_out(joint, 0.7)
    drawn = joint.at(0.7).draw_paths(20_000, torch.Generator().manual_seed(1)).tolist()
    counts = [sum(tuple(path) == wanted for path in drawn) for wanted in PATHS]
    assert chisquare(counts, [20_000 * p for p in expected.values()]).pvalue > 1e-3


@KINDS
@pytest.mark.parametrize("relaxation", [GumbelSoftmax(hard=True), SampledPath()])
def test_hard_samples_follow_the_same_distribution(kind, relaxation):
    """The argmax of a Gumbel-Softmax sample is an exact draw at any tau of the relaxation, choice by choice."""
    joint, _ = made(kind())
    expected = written_out(joint)
    weights = joint.draw(relaxation, 2.0, torch.Generator().manual_seed(2), 20_000)
    assert weights.shape == (3, 20_000, 3) and bool((weights.sum(-1) == 1).all())
    drawn = weights.argmax(-1).T.tolist()
    counts = [sum(tuple(path) == wanted for path in drawn) for wanted in PATHS]
    assert chisquare(counts, [20_000 * p for p in expected.values()]).pvalue > 1e-3


@DEPENDENT
def test_soft_samples_pass_gradients_to_the_logits_of_earlier_choices(kind):
    """Central finite differences with the same noise."""
    joint, parameters = made(kind())
    values = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss():
        drawn = joint.draw(GumbelSoftmax(), 1.5, torch.Generator().manual_seed(4), None)
        return (drawn * values).sum().square()

    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for index in itertools.product(*map(range, parameter.shape)):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[index] += sign * 1e-6
                    ends.append(float(loss()))
                    parameter[index] -= sign * 1e-6
            # truncation 1e-12 and rounding 1e-16 / 1e-6
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient[index]), abs=1e-7)
    assert float(gradients[0][0].abs().sum()) > 0


@KINDS
@pytest.mark.parametrize("num", [2, 3])
def test_the_leave_one_out_estimate_has_the_exact_gradient_as_its_mean(kind, num):
    """The mean over all tuples of independent paths, weighted by their probability, against the gradient of the sum over paths."""
    joint, parameters = made(kind())
    tau, paths = 0.8, torch.tensor(PATHS)
    scores = torch.randn(len(PATHS), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    logs = joint.at(tau).log_prob(paths)
    exact = torch.autograd.grad((logs.exp() * scores).sum(), parameters, retain_graph=True)
    chance = logs.detach().exp()
    mean = sum(
        chance[list(drawn)].prod() * score_loss(scores[list(drawn)], logs[list(drawn)])
        for drawn in itertools.product(range(len(PATHS)), repeat=num)
    )
    for one, other in zip(exact, torch.autograd.grad(mean, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_more_paths_than_can_be_enumerated_are_drawn(monkeypatch):
    joint, _ = made(Autoregressive())
    expected = written_out(joint)
    whole, _ = joint.entropy()
    monkeypatch.setattr(module, "MAX_JOINT", 5)
    paths, probabilities = joint.most_probable(3)
    best = sorted(expected, key=expected.__getitem__, reverse=True)[:3]
    assert [tuple(path) for path in paths.tolist()] == best  # 2,000 draws meet the best of 12 paths
    assert probabilities.tolist() == pytest.approx([expected[path] for path in best])
    entropy, exact = joint.entropy()
    assert not exact and entropy == pytest.approx(whole, abs=0.05)  # the mean of 2,000 sums of at most 2.5 nats
    rows = joint.marginals(Softmax())
    torch.testing.assert_close(rows.sum(-1), torch.ones(3, dtype=torch.float64))
    # the first choice has no earlier one, so its probabilities are exact
    assert rows[0, 0].item() == pytest.approx(sum(p for path, p in expected.items() if path[0] == 0))


@KINDS
def test_with_the_entropy_the_estimate_has_the_gradient_of_the_free_energy_as_its_mean(kind):
    """E[f] - c * tau * H, written out as sums over all paths, against the mean over all pairs of independent paths."""
    joint, parameters = made(kind())
    joint, paths, scale = joint.at(0.8), torch.tensor(PATHS), 1.3 * 0.8
    scores = torch.randn(len(PATHS), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    logs = joint.log_prob(paths)
    chance = logs.detach().exp()
    exact = torch.autograd.grad((logs.exp() * (scores + scale * logs)).sum(), parameters, retain_graph=True)
    with_entropy = scores + scale * logs.detach()
    mean = sum(
        chance[list(drawn)].prod() * score_loss(with_entropy[list(drawn)], logs[list(drawn)])
        for drawn in itertools.product(range(len(PATHS)), repeat=2)
    )
    for one, other in zip(exact, torch.autograd.grad(mean, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_the_conditionals_of_pairs_multiply_to_the_joint_probability_at_every_tau(tau):
    joint, _ = made(Pairwise())
    joint, expected = joint.at(tau), written_out(joint, tau)
    tables = torch.log_softmax(joint.logits(torch.tensor(PATHS)) / tau, -1)
    product = tables.gather(-1, torch.tensor(PATHS)[..., None])[..., 0].sum(-1).exp()
    assert product.tolist() == pytest.approx(list(expected.values()), rel=1e-12)


def test_many_paths_of_pairs_are_swept(monkeypatch):
    """The estimates against sums over all paths; the mode is exact, and log-probabilities lack one constant."""
    joint, parameters = made(Pairwise())
    joint, expected = joint.at(0.8), written_out(joint, 0.8)
    entropy = joint.entropy()[0]
    everything, scores = torch.tensor(PATHS), torch.randn(2, dtype=torch.float64)
    gradients = []
    for limit in (20_000, 5):
        monkeypatch.setattr(module, "MAX_JOINT", limit)
        gradients.append(torch.autograd.grad(score_loss(scores, joint.log_prob(everything[3:5])), parameters))
    for one, other in zip(*gradients, strict=True):  # the factors of the leave-one-out estimate add up to 0
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    logs = joint.log_prob(everything)
    differences = logs - torch.tensor(list(expected.values()), dtype=torch.float64).log()
    torch.testing.assert_close(differences, differences[:1].expand(len(PATHS)))
    paths, probabilities = joint.most_probable(2)
    best = sorted(expected, key=expected.__getitem__, reverse=True)[:2]
    assert [tuple(path) for path in paths.tolist()] == best
    # 2,000 draws: shares have a standard error of at most 0.011; 20 sweeps leave a bias below that on 12 paths
    assert probabilities.tolist() == pytest.approx([expected[path] for path in best], abs=0.04)
    found, exact = joint.entropy()
    assert not exact and found == pytest.approx(entropy, abs=0.1)
    marginals = joint.marginals(Softmax())
    for row, size in enumerate(SIZES):
        sums = [sum(p for path, p in expected.items() if path[row] == k) for k in range(3)]
        assert marginals[row].tolist() == pytest.approx(sums, abs=0.05) and sums[size:] == [0.0] * (3 - size)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nas.choice("first", {"a": nn.Identity, "b": nn.Tanh})
        self.second = nas.choice("second", {"a": nn.Identity, "b": nn.Tanh, "c": nn.ReLU})

    def forward(self, x):
        return self.second(self.first(x))


@DEPENDENT
def test_a_supernet_learns_and_keeps_dependent_choices(kind):
    supernet = nas.Supernet(Net(), distribution=kind())
    with torch.no_grad():  # alone, a and b are most probable; together, b and c
        supernet.alpha.copy_(torch.tensor([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        supernet.distribution.pairs[1, 0, 1, 2] = 5.0
    assert [parameter is supernet.alpha for parameter in supernet.arch_parameters()] == [True, False]
    assert dict(supernet.discretize().choices) == {"first": "b", "second": "c"}
    other = nas.Supernet(Net(), distribution=kind())
    other.load_state_dict(supernet.state_dict())
    assert other.discretize() == supernet.discretize()
    with pytest.raises(RuntimeError, match=r"distribution\.pairs"):
        nas.Supernet(Net()).load_state_dict(supernet.state_dict())
    x = torch.randn(4, 3)
    sample = supernet.sample(GumbelSoftmax(), 1.0)
    supernet(x, op_weights=sample).sum().backward()
    assert float(supernet.distribution.pairs.grad[1, 0].abs().sum()) > 0
    per_sample = supernet.sample(GumbelSoftmax(), 1.0, num_samples=4)
    assert per_sample.weights.shape == (2, 4, 3) and supernet(x, op_weights=per_sample).shape == x.shape


class Inputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.sum = nas.inputs("sum", {"x": nn.Identity, "y": nn.Identity, "z": nn.Identity}, k=2)

    def forward(self, x):
        return self.sum([x, x, x])


def test_a_supernet_keeps_the_temperature_of_its_distribution_and_old_states_have_tau_1():
    supernet = nas.Supernet(Net())
    with torch.no_grad():
        supernet.alpha.copy_(torch.tensor([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    old = {key: value for key, value in supernet.state_dict().items() if not key.endswith("temperature")}
    supernet.distribution.temperature.fill_(0.5)
    for state, tau in ((supernet.state_dict(), 0.5), (old, 1.0)):
        other = nas.Supernet(Net())
        other.load_state_dict(state)
        expected = 1 / (1 + math.exp(-0.5 / tau))
        assert other.probabilities()["first"]["a"] == pytest.approx(expected)


def test_choices_with_several_labels_have_independent_rows_alone():
    with pytest.raises(ValueError, match="several labels; use Factorised"):
        nas.Supernet(Inputs(), distribution=Autoregressive())
