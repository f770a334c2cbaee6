"""Old dotted paths lead to the modules of today."""

import subprocess
import sys
from importlib import import_module

import pytest

import nas
from nas.io.moved import MOVED, metrics_of, rename_metrics

BEFORE = """
    arch_statistics bilevel building candidates checkpoint_io choice_module choices concrete_dropout cost_model cost_penalty cost_table
    costs csv_file distributed errors estimators evaluation files folder_lock folding gates genotype input_choice latency
    limits lr_schedules
    merging mixed_op mixture module_key parent paths regularizers repeats retrain_module rng search_module search_space structure supernet
    tau testing train_module widths runs.baseline runs.derive runs.evaluate runs.export runs.load runs.retrain runs.search
""".split()
"""Modules of version 0.1.0."""


@pytest.mark.parametrize("name", BEFORE)
def test_every_module_is_found_where_it_was(name):
    import_module(f"nas.{name}")


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_module_of_the_new_one(old):
    new = import_module(MOVED[old])
    before = new.__spec__.name
    assert import_module(old) is new
    assert new.__spec__.name == before == MOVED[old] and new.__name__ == MOVED[old]


def test_packages_are_attributes_of_nas():
    words = "import nas; nas.relaxations.GumbelSoftmax, nas.tau.Exponential, nas.costs.num_macs, nas.candidates.Zero"
    subprocess.run([sys.executable, "-c", words], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nas.nothing


def test_metrics_of_older_checkpoints_keep_their_own_names():
    """Only the framework's words are replaced: ``parameters`` ends in one of them."""
    old = {"train_meters.num_parameters.value": 1, "train_meters.loss.weight": 2}
    new = {"train_metrics.num_parameters.value": 1, "train_metrics.loss.weight": 2}
    assert metrics_of({"meters": [old]}) == metrics_of({"metrics": [new]}) == [new]
    for prefix in ("", "search."):
        state = {f"{prefix}meters.{key}": value for key, value in old.items()} | {f"{prefix}network.meters.x": 3}
        rename_metrics(None, state, prefix)
        assert state == {f"{prefix}metrics.{key}": value for key, value in new.items()} | {
            f"{prefix}network.meters.x": 3
        }
