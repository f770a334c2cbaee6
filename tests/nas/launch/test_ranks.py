"""Ranks of what a launch finds, in a table of its space."""

import json

import pytest
from made_up_launch import CHOICES, write_launch

from nas.benchmark import Table
from nas.launch.launch import KNOWN, read_summary
from nas.launch.table import cells


def test_the_ranks_are_those_of_the_sorted_table(tmp_path):
    plan, trials, _ = write_launch(tmp_path / "all", {"own": {}}, range(6), unfinished=["own_seed5"])
    genotypes = [plan.run(trial).read_summary()["genotype"] for trial in trials[:5]]
    table = Table({}, "accuracy")
    others = [{name: labels[i] for name, labels in CHOICES.items()} for i in range(4)]
    worth = {json.dumps(choices, sort_keys=True): (7 * i % 11) / 11 for i, choices in enumerate([*genotypes, *others])}
    for key, value in worth.items():
        table.add(json.loads(key), "test", 0, value)
        table.add(json.loads(key), "validation", 0, -value)
    table.save(tmp_path / "all" / KNOWN)
    summary = read_summary(plan, trials, {}, None)
    best_first = sorted(worth.values(), reverse=True)
    ranks = [best_first.index(worth[json.dumps(genotype, sort_keys=True)]) + 1 for genotype in genotypes]
    assert [row.get("rank") for row in summary["trials"]] == [*ranks, None]
    assert summary["settings"][0]["rank"] == pytest.approx(sum(ranks) / 5)
    head, rows = cells(summary)
    assert rows[0][head.index("rank in the table")] == f"{sum(ranks) / 5:.1f} of {len(worth)}"


def test_a_table_is_kept_with_the_launch_and_a_wrong_one_is_refused(run_cli, config, tmp_path):
    table = Table({"space": {"class_path": "search_spaces.nasbench201.NASBench201"}}, "accuracy")
    table.add({"edge": "none"}, "test", 0, 0.5)
    table.save(tmp_path / "other.json")
    words = ("--config", config(), "--seeds", "0", "--out", "all", "--trainer.max_epochs", "1")
    answer = run_cli("launch", *words, "--table", "other.json")
    assert answer.code == 2 and "other.json" in answer.complaint and not (tmp_path / "all").exists()
    answer = run_cli("launch", *words, "--table", "nowhere.json")
    assert answer.code == 2 and "nowhere.json" in answer.complaint
