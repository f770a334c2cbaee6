"""Stand-alone trainings: what an architecture is worth, by the very training of ``nas retrain``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nas.data.loader import ResumableLoader
from nas.evaluation import evaluate
from nas.genotype import Genotype, key_of
from nas.io.errors import as_usage_error
from nas.runs.build import build_network, build_search, retrain_module, try_training
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder
from nas.runs.judging import searched_of
from nas.runs.results import headline
from nas.runs.targets import limits_of, targets_tables
from nas.runs.trainer import prepare_machine, train
from nas.supernet.structure import all_choices, random_choices

NUM_FOLDS = 4
"""Validation trainings leave out a quarter of the training set; seeds take turns, so four of them see every sample once."""

NUM_TRIES = 1000
"""Draws for each architecture that is wanted, where limits refuse most."""


def architectures(experiment: Experiment, num: int) -> list[dict[str, Any]]:
    """Different architectures that make sense and keep the configuration's limits, drawn evenly; all of them where there are no more.

    Args:
        experiment: Loaded for the stage ``"retrain"``.
        num: How many; the first ones are the same for every number.
    """
    module = build_search(experiment)
    network = module.supernet.network
    device = prepare_machine(experiment.trainer)
    limits = limits_of(experiment.targets, targets_tables(experiment, device)) if experiment.targets else []
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
    """What one training came to.

    Attributes:
        value: The task's first metric.
        seconds: Time in training.
    """

    value: float
    seconds: float


def validation_score(experiment: Experiment, genotype: Genotype, seed: int) -> Score:
    """Trains on three quarters of the training set, and judges on the rest; the test set is not read.

    Args:
        experiment: Loaded for the stage ``"retrain"``.
        genotype: The architecture.
        seed: Seed of weights and data order; also says which quarter.

    Raises:
        UsageError: Genotype, space and data do not fit together.
    """
    with as_usage_error():
        loader, rest = experiment.data.fold_loaders(seed, seed % NUM_FOLDS, NUM_FOLDS)
    return _score(experiment, genotype, seed, loader, rest)


def final_score(experiment: Experiment, genotype: Genotype, seed: int) -> Score:
    """Trains on the whole training set, and tests.

    Args:
        experiment: Loaded for the stage ``"retrain"``.
        genotype: The architecture.
        seed: Seed of weights and data order.

    Raises:
        UsageError: Genotype, space and data do not fit together.
    """
    with as_usage_error():
        loader = experiment.data.retrain_loader(seed)
    return _score(experiment, genotype, seed, loader, experiment.data.test_dataloader())


def _score(
    experiment: Experiment, genotype: Genotype, seed: int, loader: ResumableLoader, judged: Iterable[Any]
) -> Score:
    alone = replace(experiment.trainer, devices=1, num_nodes=1)
    prepare_machine(alone)
    experiment = replace(experiment, seed=seed, trainer=alone)
    module = retrain_module(experiment, build_network(experiment, genotype))
    try_training(experiment, module, loader, test=False)
    with tempfile.TemporaryDirectory() as folder:
        trained = train(experiment.trainer, module, loader, RunFolder(Path(folder)), None, "the same command")
    scores = evaluate(module.float().network, judged, module.task, trained.device)
    return Score(headline(module.task, scores)["value"], trained.seconds)
