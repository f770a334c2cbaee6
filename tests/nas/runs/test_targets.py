"""Cost targets from the command line: kept, refused, resumed."""

import json
import random
from functools import cache
from pathlib import Path

import pytest
import torch

import nas as framework
from nas.costs import count_macs, num_params
from nas.costs.limits import cheapest, most_expensive
from nas.costs.tabulate import CostModel
from nas.genotype import Genotype, key_of
from nas.runs.schema import read_targets
from nas.runs.targets import target_lines, target_report
from nas.supernet.building import architecture
from nas.supernet.structure import all_choices
from search_spaces.dilation import DilationNet1d

SPACE = {
    "class_path": "search_spaces.dilation.DilationNet1d",
    "init_args": {"num_layers": 3, "channels": 4, "dilations": [1, 8], "kernel_sizes": [3, 5, 7]},
}
X = torch.randn(1, 1, 64)
COUNTED = {"macs": count_macs, "params": num_params}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def built(choices, space=SPACE["init_args"]):
    with architecture(choices):
        return DilationNet1d(**space).network()


def counted(choices, cost, space=SPACE["init_args"]):
    """Independent of any table: the network, built and counted."""
    return cost(built(choices, space), [X])


@cache
def cost_range(cost):
    """The smallest and the largest cost of an architecture."""
    supernet = framework.Supernet(DilationNet1d(**SPACE["init_args"]).network())
    table = CostModel(supernet, [X]).table("cost", cost)
    return [counted(find(supernet.network, table), cost) for find in (cheapest, most_expensive)]


QUICK = {
    "model.space": SPACE,
    "trainer.max_epochs": 2,
    "trainer.limit_train_batches": 1,
    "trainer.num_images": 0,
    "model.warmup_epochs": 0,
}


@pytest.mark.parametrize("seed", range(3))
def test_random_targets_are_kept(run_cli, config, seed):
    """4 targets a seed here, 20 in the slow test: each derived architecture, built and counted, keeps its limit."""
    _check_targets(run_cli, config, seed, 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_twenty_random_targets_are_kept(run_cli, config, seed):
    _check_targets(run_cli, config, seed, 20)


def _check_targets(run_cli, config, seed, number):
    draw = random.Random(seed)
    ranges = {"macs": cost_range(count_macs), "params": cost_range(num_params)}
    for i in range(number):
        names = draw.sample(list(ranges), draw.choice((1, 2)))
        share = draw.random()
        targets = {name: {"max": ranges[name][0] + share * (ranges[name][1] - ranges[name][0])} for name in names}
        path = config({**QUICK, "trainer.max_epochs": 1, "seed_everything": seed, "model.cost": targets})
        answer = run_cli("search", "--config", path, "--out", f"run{i}", "--json")
        assert answer.code == 0, answer.err
        result = answer.result
        for name, cost in (("macs", count_macs), ("params", num_params)):
            if name in targets:
                real = counted(result["genotype"], cost)
                assert real <= targets[name]["max"]
                assert result["target"][name] == {
                    "max": targets[name]["max"],
                    "table": real,
                    "network": real,
                    "met": True,
                }
        assert result["target_met"] is True


def test_a_binding_target_changes_the_choice_and_the_expected_cost_is_logged(run_cli, config):
    least, most = cost_range(count_macs)
    limit = least + 0.1 * (most - least)
    answer = run_cli(
        "search", "--config", config({**QUICK, "model.cost": {"macs": {"max": limit, "weight": 5.0}}}), "--out", "run"
    )
    assert answer.code == 0, answer.err
    assert "target macs: at most" in answer.out
    header, first = Path("run/metrics.csv").read_text().splitlines()[:2]
    logged = float(dict(zip(header.split(","), first.split(","), strict=True))["cost/macs"])
    assert least < logged < most


def test_an_impossible_limit_is_refused_before_training_naming_the_smallest(run_cli, config):
    least, _ = cost_range(count_macs)
    answer = run_cli(
        "search", "--config", config({**QUICK, "model.cost": {"macs": {"max": least - 1}}}), "--out", "run"
    )
    assert answer.code == 2
    assert f"no architecture has macs of at most {least - 1:,}; the smallest is {least:,}" in answer.complaint
    assert not Path("run").exists()


def test_the_limit_is_about_the_network_that_is_retrained(run_cli, config):
    """Retrained with twice the channels: the same limit, other tables."""
    most = 700
    changes = {**QUICK, "model.cost": {"params": {"max": most}}, "retrain.space": {"channels": 8}}
    answer = run_cli("search", "--config", config(changes), "--out", "run", "--json")
    assert answer.code == 0, answer.err
    real = counted(answer.result["genotype"], num_params, {**SPACE["init_args"], "channels": 8})
    assert answer.result["target"]["params"]["network"] == real <= most
    assert answer.result["cost"]["params"] < real
    answer = run_cli("retrain", "--run", "run", "--json")
    assert answer.result["params"] == real


def test_a_resumed_search_goes_by_the_same_tables(run_cli, config):
    least, most = cost_range(count_macs)
    changes = {**QUICK, "model.cost": {"macs": {"max": (least + most) / 2}}}
    path = config(changes)
    assert run_cli("search", "--config", path, "--out", "whole").code == 0
    assert run_cli("search", "--config", path, "--out", "cut").code == 0
    cut = Path("cut")
    for name in ("manifest.json", "summary.json", "genotype.json"):
        (cut / name).unlink()
    (cut / "checkpoints/previous.ckpt").replace(cut / "checkpoints/last.ckpt")
    answer = run_cli("search", "--resume", "cut", "--json")
    assert answer.code == 0, answer.err
    assert (cut / "metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
    assert answer.result["target_met"] is True
    (cut / "manifest.json").unlink()
    (cut / "cost_tables.json").write_text('{"macs": 3}')
    answer = run_cli("search", "--resume", "cut")
    assert answer.code == 2 and answer.complaint.endswith("cost_tables.json: damaged")
    (cut / "cost_tables.json").unlink()
    answer = run_cli("search", "--resume", "cut")
    assert answer.code == 2 and "cost_tables.json: missing" in answer.complaint


def test_a_latency_target_needs_a_profile_and_is_then_kept(run_cli, config):
    path = config({**QUICK, "model.cost": {"latency_ms": {"max": 1000.0}}})
    answer = run_cli("search", "--config", path, "--out", "run")
    assert answer.code == 2
    assert "latency_ms: not measured on this device" in answer.complaint and "run nas profile" in answer.complaint
    assert not Path("run").exists()
    profiled = run_cli("profile", "--config", path, "--json")
    assert profiled.code == 0, profiled.err
    assert profiled.result["costs"]["latency_ms"]["smallest"] > 0
    answer = run_cli("search", "--config", path, "--out", "run", "--json")
    assert answer.code == 0, answer.err
    row = answer.result["target"]["latency_ms"]
    assert 0 < row["table"] <= 1000.0 and row["network"] > 0
    again = run_cli("profile", "--config", path, "--json")
    assert again.result["costs"]["latency_ms"] == profiled.result["costs"]["latency_ms"], "measured once, kept"


def test_a_cost_of_the_users_own(run_cli, config):
    Path("my_costs.py").write_text(
        "def num_weights(module, inputs):\n    return sum(p.numel() for n, p in module.named_parameters() if 'weight' in n)\n"
        "\n\nNOT_A_FUNCTION = 3\n"
    )
    changes = {**QUICK, "model.cost": {"my_costs.num_weights": {"max": 150}}}
    answer = run_cli("search", "--config", config(changes), "--out", "run")
    assert answer.code == 2 and "--trust-module my_costs" in answer.complaint
    answer = run_cli("search", "--config", config(changes), "--out", "run", "--trust-module", "my_costs", "--json")
    assert answer.code == 2 and "the smallest is" in answer.complaint
    changes["model.cost"] = {"my_costs.num_weights": {"max": 200}}
    answer = run_cli("search", "--config", config(changes), "--out", "run", "--trust-module", "my_costs", "--json")
    assert answer.code == 0, answer.err
    assert answer.result["target"]["my_costs.num_weights"]["network"] <= 200
    changes["model.cost"] = {"my_costs.NOT_A_FUNCTION": {"max": 200}}
    answer = run_cli("search", "--config", config(changes), "--out", "other", "--trust-module", "my_costs")
    assert answer.code == 2 and "my_costs.NOT_A_FUNCTION: not a function" in answer.complaint


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ({"flops": {"max": 1}}, "unknown cost 'flops'; expected params, macs, activations, latency_ms"),
        ({"macs": {"max": -1}}, "macs.max must be a number above 0, got -1"),
        ({"macs": {"max": 0}}, "macs.max must be a number above 0, got 0"),
        ({"macs": {"max": float("nan")}}, "macs.max must be a number above 0, got nan"),
        ({"macs": {"max": float("inf")}}, "macs.max must be a number above 0, got inf"),
        ({"macs": {"max": "many"}}, "macs.max must be a number above 0, got 'many'"),
        ({"macs": {"max": True}}, "macs.max must be a number above 0, got True"),
        ({"macs": {"max": 10, "weight": -1}}, "macs.weight must be a number above 0, got -1"),
        ({"macs": 10}, "macs must be {max: NUMBER}"),
        ({"macs": {}}, "macs must be {max: NUMBER}"),
        ({"macs": {"max": 1, "min": 0}}, "macs must be {max: NUMBER}"),
        ({"os.system": {"max": 1}}, "--trust-module os"),
    ],
)
def test_bad_targets(run_cli, config, cost, message):
    answer = run_cli("search", "--config", config({**QUICK, "model.cost": cost}), "--out", "run")
    assert answer.code == 2 and "model.cost" in answer.complaint and message in answer.complaint
    assert not Path("run").exists()


def test_a_strategy_that_breaks_a_limit_is_stopped(run_cli, config):
    Path("my_strategy.py").write_text(
        "import nas\nfrom nas.derive import DeriveStrategy\n\n\nclass Dearest(DeriveStrategy):\n"
        "    def genotype(self, searched):\n"
        "        return nas.Genotype({name: 'kernel_7_dilation_8' for name in searched.supernet.choices})\n"
    )
    least, most = cost_range(count_macs)
    path = config({**QUICK, "model.cost": {"macs": {"max": (least + most) / 2}}})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    answer = run_cli("derive", "--run", "run", "--strategy", "my_strategy.Dearest", "--trust-module", "my_strategy")
    assert answer.code == 1 and "Dearest chose an architecture that breaks the limit of macs" in answer.complaint


def test_derive_reports_targets(run_cli, config):
    path = config({**QUICK, "model.cost": {"macs": {"max": 1e9}}})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    answer = run_cli("derive", "--run", "run", "--json")
    assert answer.result == {
        key: json.loads(Path("run/summary.json").read_text())[key]
        for key in (
            "genotype",
            "probabilities",
            "metric",
            "cost",
            "target",
            "target_met",
            "standing",
            "replaced",
            "distribution",
            "runner_up",
            "beats_constant",
        )
    } | {"best_so_far": None}  # what a search saw on its way is not read again


def test_the_network_decides_whether_a_target_is_met_and_the_table_of_a_latency():
    targets = read_targets({"macs": {"max": 10}, "latency_ms": {"max": 10}}, ())
    table, network = {"macs": 12, "latency_ms": 9.5}, {"macs": 10, "latency_ms": 10.5}
    report = target_report(targets, table=table, network=network)
    assert report["macs"] == {"max": 10, "table": 12, "network": 10, "met": True}
    assert report["latency_ms"] == {"max": 10, "table": 9.5, "network": 10.5, "met": True}
    assert not target_report(targets, network=network)["latency_ms"]["met"]
    assert target_lines(report)["target macs"] == "at most 10, by the table 12, the network has 10, met"
    smallest = target_report(targets, smallest={"macs": 1234567, "latency_ms": 0.12345})
    assert target_lines(smallest) == {
        "target macs": "at most 10, the smallest is 1,234,567, cannot be met",
        "target latency_ms": "at most 10, the smallest is 0.1235, can be met",
    }
    assert target_lines({"macs": {"max": 10, "table": 12, "network": 10}}) == {
        "target macs": "at most 10, by the table 12, the network has 10"
    }
    assert target_lines({}) == target_report((), table={}) == {}


def test_stored_block_scores_are_solved_for_other_limits(run_cli, config):
    """Each answer is the allowed architecture with the smallest sum of scores in scores.json, counted by hand over all 216."""
    strategy = {"class_path": "nas.derive.BlockScores", "init_args": {"num_batches": 2}}
    path = config({**QUICK, "model.derive": strategy, "model.cost": {"macs": {"max": 12_000}}})
    answer = run_cli("search", "--config", path, "--out", "run", "--json")
    assert answer.code == 0, answer.err
    (scores,) = (value for value in json.loads(Path("run/scores.json").read_text()).values() if isinstance(value, dict))
    rises = {(name, labels[0]): rise for condition, rise in scores["terms"] for name, labels in condition.items()}
    every = list(all_choices(DilationNet1d(**SPACE["init_args"]).network()))
    networks = {key_of(choices): built(choices) for choices in every}
    costs = {key: {name: cost(network, [X]) for name, cost in COUNTED.items()} for key, network in networks.items()}
    most = {name: max(cost[name] for cost in costs.values()) for name in COUNTED}

    def best(**limits):
        allowed = [c for c in every if all(costs[key_of(c)][name] <= limit for name, limit in limits.items())]
        return min(allowed, key=lambda choices: sum(rises.get(pair, 0.0) for pair in choices.items()))

    assert answer.result["genotype"] == best(macs=12_000)
    assert best(macs=0.45 * most["macs"]) != best()
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    for words, limits in (
        (["--limit", "params=0.8"], {"params": 0.8 * most["params"]}),
        (["--limit", "macs=0.45"], {"macs": 0.45 * most["macs"]}),
        (["--limit", "macs=0.9", "--limit", "params=190"], {"macs": 0.9 * most["macs"], "params": 190}),
    ):
        again = run_cli("derive", "--run", "run", *words, "--out", "found.json", "--json")
        assert again.code == 0, again.err
        assert again.result["genotype"] == best(**limits) == dict(Genotype.load("found.json").choices)
        assert again.result["target_met"] and again.result["target"].keys() == limits.keys()
    assert before == {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    for limit, message in (
        ("size=0.5", "limit: unknown cost size; expected params, macs, activations, latency_ms"),
        ("macs=3", "no architecture has macs of at most 3; the smallest is"),
        ("macs=-1", "'macs=-1' is not COST=VALUE with a value above 0, such as macs=0.5"),
    ):
        wrong = run_cli("derive", "--run", "run", "--limit", limit)
        assert wrong.code != 0 and message in wrong.err and wrong.err.count("\n") == 1
