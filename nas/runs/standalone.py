"""Stand-alone trainings: scores architectures with the training of ``nas retrain``."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nas.benchmark import Part
from nas.evaluation import evaluate
from nas.genotype import Genotype, key_of
from nas.io.errors import as_usage_error
from nas.runs.build import build_network, build_search, retrain_module, try_training
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder
from nas.runs.judging import searched_of
from nas.runs.results import headline
from nas.runs.targets import limits_of, targets_tables
from nas.runs.trainer import make_trainer, prepare_machine, train
from nas.supernet.structure import all_choices, random_choices

NUM_FOLDS = 4
"""Validation trainings hold out a quarter of the training set. The seed chooses the quarter, so four seeds hold out each sample once."""
NUM_TRIES = 1000
"""Largest number of draws for each architecture, since limits may refuse most architectures."""


def sample_architectures(experiment: Experiment, num: int) -> list[dict[str, Any]]:
    """`num` different random architectures that the space and the limits allow; all architectures of a space of at most `num`.

    `experiment` is loaded for the stage ``"retrain"``. A larger `num` gives the same architectures first.
    """
    module = build_search(experiment)
    network = module.supernet.network
    device = prepare_machine(experiment.trainer)
    limits = limits_of(experiment.targets, targets_tables(experiment, device))
    searched = searched_of(module, experiment.data, device, limits)
    if module.supernet.num_architectures <= num:
        return [choices for choices in all_choices(network) if searched.allows(choices)]
    found: dict[str, dict[str, Any]] = {}
    for seed in range(NUM_TRIES * num):
        choices = random_choices(network, seed)
        if searched.allows(choices):
            found.setdefault(key_of(choices), choices)
        if len(found) == num:
            break
    return list(found.values())


class Score(NamedTuple):
    """The task's first metric after one training, and the training time."""

    value: float
    seconds: float


def standalone_score(experiment: Experiment, genotype: Genotype, part: Part, seed: int) -> Score:
    """Trains one architecture and scores it. `experiment` is loaded for the stage ``"retrain"``.

    The part ``"validation"`` trains on three quarters of the training set and scores on the rest, without reading the test set. The seed
    also chooses the quarter. The part ``"test"`` trains on the whole training set and scores on the test set.

    Raises:
        UsageError: Genotype, space and data do not fit together.
    """
    data = experiment.data
    with as_usage_error():
        if part == "validation":
            loader, scored = data.fold_loaders(seed, seed % NUM_FOLDS, NUM_FOLDS)
        else:
            loader, scored = data.retrain_loader(seed), data.test_dataloader()
    alone = replace(experiment.trainer, devices=1, num_nodes=1)
    trainer = make_trainer(alone)
    experiment = replace(experiment, seed=seed, trainer=alone)
    module = retrain_module(experiment, build_network(experiment, genotype))
    try_training(experiment, module, loader, test=False)
    with tempfile.TemporaryDirectory() as folder:
        trained = train(trainer, alone, module, loader, RunFolder(Path(folder)), None, "the same command")
    scores = evaluate(module.float().network, scored, module.task, trained.device)
    return Score(headline(module.task, scores)["value"], trained.seconds)
