"""Scores with inherited weights, against the same by hand and against scikit-learn."""

import copy
import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from nas.costs.limits import Infeasible, Limit
from nas.costs.table import CostTable, Term
from nas.derive import Argmax, BlockScores, Ranked, Searched
from nas.derive.fine_tuned import fine_tune
from nas.derive.inherited import DECAY, WORST, InheritedScore, fit_head
from nas.derive.pool import candidates
from nas.evaluation import mean_loss
from nas.relaxations import Softmax
from nas.tasks import Classification, Distillation

LABELS = ("lin", "wide", "skip")
EVERYTHING = [dict(zip("ab", labels, strict=True)) for labels in itertools.product(LABELS, repeat=2)]


def by_hand(searched, choices):
    """The loss on the arch split, statistics of each norm the mean over the batches of the train split."""
    network = searched.supernet.derive(choices)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    sums = {norm: [torch.zeros(4), torch.zeros(4)] for norm in norms}
    handles = [
        norm.register_forward_pre_hook(
            lambda norm, args: sums[norm].__setitem__(
                slice(None), [sums[norm][0] + args[0].mean(0) / 3, sums[norm][1] + args[0].var(0) / 3]
            )
        )
        for norm in norms
    ]
    network.train()
    with torch.no_grad():
        for x, _ in searched.weight_batches():
            network(x)
        for handle in handles:
            handle.remove()
        for norm in norms:
            norm.running_mean, norm.running_var = sums[norm]
        network.eval()
        x, y = (torch.cat(list(part)) for part in zip(*searched.arch_batches(), strict=True))
        return float(F.cross_entropy(network(x), y))


@pytest.mark.parametrize("choices", EVERYTHING, ids=str)
def test_the_score_is_minus_the_loss_of_the_recalibrated_network(searched, choices):
    before = copy.deepcopy(searched.supernet.state_dict())
    score = InheritedScore(searched)(choices)
    assert score == pytest.approx(-by_hand(searched, choices), rel=1e-5)  # sums of float32 in another order
    for name, value in searched.supernet.state_dict().items():
        assert torch.equal(value, before[name])


def test_scores_and_fine_tuning_come_closer_to_a_parent_without_labels(make, searched):
    torch.manual_seed(1)
    task = Distillation()
    task.teach(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    taught = make(searched.space, task=task)
    score, refitted = (InheritedScore(taught, refit_head=refit)(EVERYTHING[0]) for refit in (False, True))
    network = taught.supernet.derive(EVERYTHING[0])
    fine_tune(network, taught, num_steps=30, lr=0.01)
    tuned = -mean_loss(network, taught.arch_batches(), task, torch.device("cpu"))
    assert score < min(refitted, tuned) and max(refitted, tuned) < 0


def test_a_fitted_head_is_the_regression_of_scikit_learn():
    """The loss of 15 LBFGS steps lies within 1 % of the optimum (of the objective with its penalty), and below the start."""
    torch.manual_seed(0)
    x = torch.randn(200, 5)
    y = (x @ torch.randn(5, 4) + 0.5 * torch.randn(200, 4)).argmax(-1)
    head = nn.Linear(5, 4)

    def objective(weight, bias):
        weight, bias = weight.detach(), bias.detach()
        return float(F.cross_entropy(F.linear(x, weight, bias), y) + DECAY * weight.square().sum())

    before = objective(head.weight, head.bias)
    fit_head(head, list(x.split(64)), list(y.split(64)), Classification(4))
    best = LogisticRegression(C=1 / (2 * DECAY * len(x)), tol=1e-8, max_iter=1000).fit(x.numpy(), y.numpy())
    optimum = objective(
        torch.tensor(best.coef_, dtype=torch.float32), torch.tensor(best.intercept_, dtype=torch.float32)
    )
    assert optimum <= objective(head.weight, head.bias) < 1.01 * optimum < before


def test_refitting_uses_the_weight_half_alone_and_raises_the_score_here(searched):
    choices = {"a": "wide", "b": "lin"}
    plain, fitted = InheritedScore(searched)(choices), InheritedScore(searched, refit_head=True)(choices)
    assert fitted > plain  # heads are untrained
    network = searched.supernet.derive(choices)
    with torch.no_grad():
        network.train()
        features = torch.cat([network[:-1](x) for x, _ in searched.weight_batches()])
        y = torch.cat([y for _, y in searched.weight_batches()])
        best = LogisticRegression(C=1 / (2 * DECAY * len(y)), tol=1e-8, max_iter=1000).fit(features.numpy(), y.numpy())
    optimum = F.cross_entropy(torch.tensor(best.decision_function(features.numpy())), y)
    assert abs(float(optimum)) < 1.2  # a sensible problem: guessing costs 1.1


@pytest.mark.parametrize(
    "body", [nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(-1)), nn.Conv1d(4, 3, 1)], ids=["softmax", "none"]
)
def test_a_network_without_a_linear_head_is_refused_before_the_search(make, space, searched, body):
    if isinstance(body, nn.Conv1d):
        body = nn.Sequential(nn.Unflatten(1, (4, 1)), body, nn.Flatten())
    other = make(space(body))
    with pytest.raises(ValueError, match="refit_head must be false: the output of the network"):
        Ranked(refit_head=True).check(other)
    Ranked(refit_head=False).check(other)
    Ranked(refit_head=True).check(searched)


def test_without_data_it_says_so(searched):
    with pytest.raises(ValueError, match="needs data to score architectures"):
        InheritedScore(Searched(supernet=searched.supernet, relaxation=Softmax(), space=searched.space))


def test_ranked_takes_the_best_of_all(searched):
    losses = {tuple(c.values()): by_hand(searched, c) for c in EVERYTHING}
    best = min(losses, key=losses.__getitem__)
    assert tuple(Ranked(num=9, smooth=False).genotype(searched).choices.values()) == best
    ranking = Ranked(num=9, smooth=False).ranking(searched)
    assert [tuple(c.values()) for c, _ in ranking] == sorted(losses, key=losses.__getitem__)


def test_what_makes_no_sense_or_costs_too_much_is_not_ranked(space, searched):
    best = dict(Ranked(num=9).genotype(searched).choices)
    table = CostTable("skips", 0.0, tuple(Term({name: frozenset({"skip"})}, 1.0) for name in "ab"))
    limited = Searched(**{**vars(searched), "space": space(forbidden=best), "limits": [Limit(table, 0.0)]})
    pool = [choices for choices, _ in Ranked(num=9).ranking(limited)]
    assert {tuple(c.values()) for c in pool} == {
        tuple(c.values()) for c in EVERYTHING if "skip" not in c.values() and c != best
    }


def test_a_larger_space_is_drawn_from_the_probabilities(searched):
    pool = candidates(searched, 4)
    assert len(pool) == len({tuple(c.values()) for c in pool}) == 4
    assert pool[0] == dict(Argmax().genotype(searched).choices)
    assert candidates(searched, 4) == pool
    counts = np.zeros(9)
    for seed in range(300):
        second = candidates(Searched(**{**vars(searched), "seed": seed}), 2)[1]
        counts[EVERYTHING.index(second)] += 1
    p = torch.softmax(searched.supernet.alpha.detach(), -1)
    expected = np.array([float(p[0, LABELS.index(c["a"])] * p[1, LABELS.index(c["b"])]) for c in EVERYTHING])
    expected[EVERYTHING.index(pool[0])] = 0
    expected /= expected.sum()
    # 300 draws: standard deviations up to 0.028
    assert np.abs(counts / 300 - expected).max() < 0.1


def test_nothing_within_the_limits_is_said(space, searched):
    table = CostTable("labels", 0.0, tuple(Term({"a": frozenset({label})}, 1.0) for label in LABELS))
    with pytest.raises(Infeasible):
        candidates(Searched(**{**vars(searched), "limits": [Limit(table, 0.0)]}), 9)


def test_architectures_seen_earlier_are_ranked_too(searched):
    seen = [{"a": "wide", "b": "skip"}, {"a": "lin", "b": "lin"}]
    pool = candidates(Searched(**{**vars(searched), "seen": seen}), 4)
    assert pool[1:3] == seen and len(pool) == 4


def test_a_settled_distribution_gives_fewer(searched):
    with torch.no_grad():
        searched.supernet.alpha.copy_(torch.tensor([[50.0, 0.0, 0.0], [0.0, 50.0, 0.0]]))
    assert candidates(searched, 4) == [{"a": "lin", "b": "wide"}]


@pytest.mark.parametrize("arguments", [{"num": 0}, {"num_batches": 0}])
def test_bad_numbers(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        Ranked(**arguments)


def test_no_strategy_takes_a_network_whose_outputs_are_not_finite(searched):
    """The best architecture without the broken candidate wins; before, its losses were left out of the mean."""
    score = InheritedScore(searched)
    best = max((choices for choices in EVERYTHING if choices["a"] != "lin"), key=score)
    with torch.no_grad():
        searched.supernet.network[0].candidates[0].weight.fill_(torch.nan)
    assert score({"a": "lin", "b": "skip"}) == WORST < score(best)
    assert Ranked(smooth=False).genotype(searched).choices == best
    assert Ranked().genotype(searched).choices["a"] != "lin"
    assert BlockScores().genotype(searched).choices["a"] != "lin"
