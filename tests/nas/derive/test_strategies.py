"""Strategies against the same by hand, on a space of nine architectures."""

import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas.costs.limits import Limit
from nas.costs.table import CostTable, Term
from nas.derive import Argmax, BlockScores, Evolution, FineTuned, Perturbation, Searched
from nas.derive.fine_tuned import most_probable_ones
from nas.derive.inherited import InheritedScore


def loss_of(network, batches):
    x, y = (torch.cat(list(part)) for part in zip(*batches, strict=True))
    with torch.no_grad():
        return float(F.cross_entropy(network.eval()(x), y))


def limited(searched):
    """No skip may be chosen."""
    table = CostTable("skips", 0.0, tuple(Term({name: frozenset({"skip"})}, 1.0) for name in "ab"))
    return Searched(**{**vars(searched), "limits": [Limit(table, 0.0)]})


def test_the_most_probable_ones_are_those_of_enumeration(searched, everything):
    p = searched.probabilities()
    by_probability = sorted(everything, key=lambda c: -p["a"][c["a"]] * p["b"][c["b"]])
    assert most_probable_ones(searched, 9) == by_probability
    assert most_probable_ones(searched, 20) == by_probability
    assert most_probable_ones(searched, 4) == by_probability[:4]
    without = [choices for choices in by_probability if "skip" not in choices.values()]
    assert most_probable_ones(limited(searched), 9) == without


def tuned_by_hand(searched, choices, num_steps, lr):
    network = searched.supernet.derive(choices).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=num_steps, cycle_momentum=False)
    batches = itertools.cycle(searched.weight_batches())
    for _ in range(num_steps):
        x, y = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        schedule.step()
    return loss_of(network, searched.arch_batches())


def test_fine_tuned(searched):
    before = copy.deepcopy(searched.supernet.state_dict())
    pool = most_probable_ones(searched, 5)
    losses = [tuned_by_hand(searched, choices, 30, 0.05) for choices in pool]
    found = FineTuned(num=5, num_steps=30, lr=0.05).genotype(searched)
    assert dict(found.choices) == pool[losses.index(min(losses))] != pool[0]
    assert FineTuned(num=1, num_steps=1).genotype(searched).choices == Argmax().genotype(searched).choices
    for name, value in searched.supernet.state_dict().items():
        assert torch.equal(value, before[name])


def mixture(supernet, weights):
    """The network with explicit mixtures."""
    network = supernet.network.eval()

    def forward(x):
        for module in network:
            if hasattr(module, "candidates"):
                row = weights[module.name]
                x = sum(w * op(x) for w, op in zip(row, module.candidates, strict=True))
            else:
                x = module(x)
        return x

    result = nn.Module()
    result.forward = forward
    return result


def perturbed_by_hand(searched, order):
    weights = {name: list(row.values()) for name, row in searched.probabilities().items()}
    chosen = {}
    for name in order:
        losses = []
        for k in range(3):
            row = [0.0 if i == k else w for i, w in enumerate(weights[name])]
            without = {**weights, name: [w / sum(row) for w in row]}
            losses.append(loss_of(mixture(searched.supernet, without), searched.arch_batches()))
        best = losses.index(max(losses))
        chosen[name] = searched.supernet.choices[name][best]
        weights[name] = [float(i == best) for i in range(3)]
    return chosen


def test_perturbation_keeps_what_is_missed_most(searched):
    found = dict(Perturbation().genotype(searched).choices)
    assert found in [perturbed_by_hand(searched, order) for order in ("ab", "ba")]
    assert Perturbation().genotype(searched).choices == found
    within = Perturbation().genotype(limited(searched)).choices
    assert "skip" not in within.values()


def test_perturbation_may_train_in_between_and_leaves_the_supernet_alone(searched):
    before = copy.deepcopy(searched.supernet.state_dict())
    found = Perturbation(num_steps=5, lr=0.05).genotype(searched)
    searched.supernet.derive(found)  # is whole
    for name, value in searched.supernet.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("refit_head", [False, True])
def test_evolution_finds_the_best_of_all_when_it_may_score_all(searched, everything, refit_head):
    score = InheritedScore(searched, refit_head=refit_head)
    best = max(everything, key=score)
    evolution = Evolution(num=9, population=3, num_parents=2, mutation=0.5, refit_head=refit_head)
    assert dict(evolution.genotype(searched).choices) == best
    without = max((c for c in everything if "skip" not in c.values()), key=score)
    assert dict(evolution.genotype(limited(searched)).choices) == without


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: FineTuned(num=0), "must be above 0"),
        (lambda: FineTuned(lr=-1.0), "must be above 0"),
        (lambda: Perturbation(num_steps=-1), "out of range"),
        (lambda: BlockScores(num_batches=0), "out of range: 0, 0, 0.001"),
        (lambda: Evolution(num=4, population=8), "population <= num, got 8, 8, 4"),
        (lambda: Evolution(mutation=0.0), "mutation must lie between 0 and 1"),
    ],
)
def test_bad_numbers(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


def best_sum(searched, everything, losses):
    """The allowed architecture with the smallest sum of losses, each of a network that differs from (skip, skip) in one choice."""
    full = losses["skip", "skip"]
    rise = {("a", label): losses[label, "skip"] - full for label in ("lin", "wide", "skip")}
    rise |= {("b", label): losses["skip", label] - full for label in ("lin", "wide", "skip")}
    return min(filter(searched.allows, everything), key=lambda c: rise["a", c["a"]] + rise["b", c["b"]])


@pytest.mark.parametrize("num_steps", [0, 12])
def test_block_scores_are_losses_of_single_changes(searched, everything, num_steps):
    if num_steps:
        losses = {tuple(c.values()): tuned_by_hand(searched, c, num_steps, 0.03) for c in everything}
    else:
        score = InheritedScore(searched)
        losses = {tuple(choices.values()): -score(choices) for choices in everything}
    strategy = BlockScores(num_steps=num_steps, lr=0.03)
    done = []
    searched = replace(searched, on_progress=lambda *counts: done.append(counts))
    table = strategy.table(searched)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for label in ("lin", "wide"):
        assert table.of({"a": label, "b": "skip"}) == pytest.approx(losses[label, "skip"], rel=1e-6)
        assert table.of({"a": "skip", "b": label}) == pytest.approx(losses["skip", label], rel=1e-6)
    assert strategy.genotype(searched).choices == best_sum(searched, everything, losses)
    assert strategy.genotype(limited(searched)).choices == best_sum(limited(searched), everything, losses)


def test_kept_block_scores_are_not_computed_again(searched):
    first = BlockScores().table(searched)
    again = replace(searched, weight_batches=tuple, arch_batches=tuple, kept=json.loads(json.dumps(searched.kept)))
    assert BlockScores().table(again) == first
    with pytest.raises(ValueError, match="no data"):
        BlockScores(num_steps=1).table(again)  # other settings have other scores
