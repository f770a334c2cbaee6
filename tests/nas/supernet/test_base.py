"""A kind of choice of one's own is one file with three methods: it is searched, limited, profiled, derived and exported like the others."""

import random
from importlib import import_module
from pathlib import Path

import torch

import nas
from nas.costs import num_params
from nas.costs.limits import Limit, most_probable
from nas.costs.tabulate import CostModel
from nas.supernet.structure import all_choices, draw_choices, find_rows, first_choices
from nas.testing import check_search_space

KIND = """
from torch import nn

import nas
from nas.supernet.base import ChoiceModule, context_of
from nas.supernet.building import present_build, scoped
from nas.supernet.modules import copied

LABELS = ("one", "two", "three")


class Passes(ChoiceModule):
    def __init__(self, name, make):
        super().__init__()
        self.name, self.shared = name, False
        self.branches_of = nn.ModuleList(row(make, label) for label in LABELS)

    def rows(self):
        return {self.name: LABELS}

    def parts(self):
        for label, branch in zip(LABELS, self.branches_of, strict=True):
            yield {self.name: frozenset({label})}, branch

    def derived(self, choices, copies):
        return copied(self.branches_of[LABELS.index(choices[self.name])], copies)

    def forward(self, x):
        context = context_of(self.name)
        weights = context.op_weights[context.rows[self.name]]
        return sum(weights[k] * branch(x) for k, branch in enumerate(self.branches_of))


def row(make, label):
    return nn.Sequential(*[make() for _ in range(LABELS.index(label) + 1)])


def passes(name, make):
    name, build = scoped(name), present_build()
    return Passes(name, make) if build is None else build.plain(name, LABELS, lambda label: row(make, label))


def block():
    return nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU())


class Space(nas.SearchSpace):
    def network(self, stage="search"):
        head = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 10))
        act = nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh})
        return nn.Sequential(nn.Conv1d(1, 4, 3), passes("passes", block), act, passes("more", block), head)
"""
NUM_PARAMS = 4 * 4 * 3 + 4


def space(tmp_path, monkeypatch):
    (tmp_path / "sixth.py").write_text(KIND)
    monkeypatch.syspath_prepend(tmp_path)
    return import_module("sixth").Space()


def test_a_sixth_kind_keeps_the_rules(tmp_path, monkeypatch):
    own = space(tmp_path, monkeypatch)
    check_search_space(own, (torch.randn(2, 1, 8),), num_architectures=4)
    supernet = nas.Supernet(own.network())
    assert supernet.num_architectures == len(list(all_choices(supernet.network))) == 18
    assert first_choices(supernet.network) == {"passes": "one", "act": "relu", "more": "one"}
    places, row = find_rows(supernet.network), {"one": 0.0, "two": 0.0, "three": 1.0}
    drawn = draw_choices(places, random.Random(0), {"passes": row, "act": {"relu": 1.0, "tanh": 0.0}, "more": row})
    assert drawn == {"passes": "three", "act": "relu", "more": "three"}


def test_limits_hold_for_a_sixth_kind(tmp_path, monkeypatch):
    supernet = nas.Supernet(space(tmp_path, monkeypatch).network())
    table = CostModel(supernet, (torch.randn(1, 1, 8),)).table("params", num_params)
    everything = list(all_choices(supernet.network))
    smallest = min(num_params(supernet.derive(choices), ()) for choices in everything)
    probabilities = {"passes": {"one": 0.1, "two": 0.2, "three": 0.7}, "act": {"relu": 1.0, "tanh": 0.0}}
    probabilities["more"] = {"one": 0.25, "two": 0.35, "three": 0.4}
    for num_more in range(5):
        limit = smallest + num_more * NUM_PARAMS
        found = most_probable(supernet.network, probabilities, [Limit(table, limit)])
        allowed = [choices for choices in everything if num_params(supernet.derive(choices), ()) <= limit]
        best = max(allowed, key=lambda c: torch.tensor([probabilities[n][v] for n, v in c.items()]).log().sum())
        assert found == best, limit


def test_a_sixth_kind_is_profiled_searched_and_exported(run_cli, config, tmp_path):
    Path("sixth.py").write_text(KIND)
    path = config({"model.space": {"class_path": "sixth.Space"}, "model.cost": {"macs": {"max": 20_000}}})
    trust = ("--trust-module", "sixth")
    profiled = run_cli("profile", "--config", path, "--json", *trust).result
    assert profiled["num_architectures"] == 18
    answer = run_cli("search", "--config", path, "--out", "run", "--json", *trust)
    assert answer.code == 0, answer.err
    macs = answer.result["target"]["macs"]
    assert macs["table"] == macs["network"] <= 20_000
    exported = run_cli("export", "--run", "run", "--json", *trust)
    assert exported.code == 0 and "python" in exported.result["formats"], exported.err
