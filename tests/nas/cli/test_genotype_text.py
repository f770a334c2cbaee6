"""Architectures in the notations that spaces are published in, from the command line."""

import json
from pathlib import Path

import pytest

from search_spaces.darts import DARTS_V2

IMAGES = {
    "data": {"class_path": "nas.data.Digits", "init_args": {"batch_size": 100}},
    "retrain.trainer": {"max_epochs": 1},
}


def space(name, **arguments):
    return {
        **IMAGES,
        "model.space": {"class_path": f"search_spaces.{name}", "init_args": {"in_channels": 1, **arguments}},
    }


NB201 = space("nasbench201.NASBench201", channels=4, cells_per_stage=1)
MACRO = space("macro.MacroNet", channels=4)
DARTS = space("darts.Darts", search_channels=4, search_layers=3, channels=4, layers=3, auxiliary=False)
ALIVE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"


@pytest.mark.parametrize(
    ("changes", "text", "name", "label"),
    [
        (NB201, ALIVE, "edge_2_3", "avg_pool_3x3"),
        (MACRO, "01201201\n", "layer3", "mb6_k5"),
        (DARTS, DARTS_V2, "normal.node3.from2", "dil_conv_3x3"),
    ],
    ids=["nasbench201", "macro", "darts"],
)
def test_a_published_text_is_retrained(run_cli, config, changes, text, name, label):
    path = config(changes)
    Path("found.txt").write_text(text)
    answer = run_cli("retrain", "--genotype", "found.txt", "--config", path, "--out", "out", "--json")
    assert answer.code == 0, answer.err
    assert answer.result["genotype"][name] == label
    genotype = json.loads(Path("out/genotype.json").read_text())
    assert genotype["space"]["class_path"] == changes["model.space"]["class_path"]


@pytest.mark.parametrize(
    ("changes", "text", "message"),
    [
        (NB201, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "a dead cell"),
        (
            NB201,
            "|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|",
            "NAS-Bench-201 string: node 1: unknown operation 'conv'",
        ),
        (NB201, "", "NAS-Bench-201 string: "),
        (MACRO, "0120120", "NAS-Bench-Macro string: expected 8 digits, got 7"),
        (DARTS, "__import__('os').system('touch pwned')", "DARTS genotype: "),
        (DARTS, DARTS_V2.replace("skip_connect", "none"), "'none' exists only while searching"),
        ({}, "conv3x3", "DilationNet1d has no text notation; use a genotype.json"),
    ],
)
def test_broken_texts_are_one_line(run_cli, config, changes, text, message):
    path = config(changes)
    Path("found.txt").write_text(text)
    answer = run_cli("retrain", "--genotype", "found.txt", "--config", path, "--out", "out")
    assert answer.code == 2 and message in answer.complaint
    assert not Path("out").exists() and not Path("pwned").exists()


def test_a_dead_cell_in_a_genotype_file_is_refused_too(run_cli, config):
    path = config(NB201)
    edges = ("0_1", "0_2", "0_3", "1_2", "1_3", "2_3")
    content = {"format": "gumbel-nas/genotype", "version": 1, "choices": {f"edge_{edge}": "none" for edge in edges}}
    Path("dead.json").write_text(json.dumps(content))
    answer = run_cli("retrain", "--genotype", "dead.json", "--config", path, "--out", "out")
    assert answer.code == 2 and "a dead cell" in answer.complaint
