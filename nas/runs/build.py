"""The modules and networks of a configuration: fresh, restored, and tried before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nas.data import SearchDataModule
from nas.data.loader import ResumableLoader
from nas.evaluation import as_args, scalars_of, update_metrics
from nas.genotype import Genotype
from nas.io import checkpoint_io
from nas.io.errors import as_usage_error
from nas.io.rng import derive_seed, seed_global_generators, untouched_rng
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder
from nas.runs.trainer import check_batches
from nas.supernet.building import architecture
from nas.supernet.modules import eval_mode
from nas.supernet.search_space import SearchSpace
from nas.tasks import Task
from nas.training.retrain_module import RetrainModule
from nas.training.search_module import SearchModule
from nas.training.train_module import TrainModule


def build_search(experiment: Experiment) -> SearchModule:
    """The search module, weights drawn from the seed; raises UsageError where the parts do not fit together."""
    seed_global_generators(derive_seed(experiment.seed, "init"))
    with as_usage_error():
        return SearchModule(**experiment.model, seed=experiment.seed)


def restore_search(folder: RunFolder, experiment: Experiment) -> SearchModule:
    """The module of a run in the state of its last checkpoint; raises ValueError where no checkpoint is whole."""
    module = build_search(experiment)
    restore_weights(module, folder)
    module.use_average()
    return module


def restore_weights(module: TrainModule, folder: RunFolder) -> None:
    """Loads the last checkpoint; where it is damaged, and the run is not finished, the previous one.

    Raises:
        ValueError: No checkpoint is whole, or it is not of this run.
    """
    state = checkpoint_io.load(folder.last_checkpoint, fall_back=not folder.finished)
    try:
        module.load_state_dict(state["state_dict"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder.last_checkpoint}: not a checkpoint of this run: {error}") from error


def build_network(experiment: Experiment, genotype: Genotype) -> nn.Module:
    """The plain network of a genotype, weights drawn from the seed; raises UsageError where the genotype does not fit the space."""
    seed_global_generators(derive_seed(experiment.seed, "init/retrain"))
    space: SearchSpace = experiment.model["space"]
    with as_usage_error():
        space.check_genotype(genotype.choices)
        with architecture(genotype):
            return space.network("retrain")


def restore_network(folder: RunFolder, experiment: Experiment) -> nn.Module:
    """The trained network of a retraining; raises ValueError where no checkpoint is whole."""
    module = RetrainModule(build_network(experiment, folder.read_genotype()), experiment.retrain_task)
    restore_weights(module, folder)
    return module.network


def retrain_module(experiment: Experiment, network: nn.Module) -> RetrainModule:
    """The module that trains a network by the retrain section; raises UsageError where the section does not fit."""
    options = experiment.retrain
    with as_usage_error():
        return RetrainModule(
            network,
            experiment.retrain_task,
            optimizer=options.optimizer,
            scheduler=options.scheduler,
            gradient_clip_norm=options.gradient_clip_norm,
            max_skipped_batches=options.max_skipped_batches,
            num_micro_batches=options.num_micro_batches,
            seed=experiment.seed,
        )


def check_retraining(experiment: Experiment, genotype: Genotype) -> None:
    """Tries the retrain section on any architecture before a search, so that its errors do not come after hours.

    Raises:
        UsageError: The section does not work.
    """
    with as_usage_error("retrain"):
        module = retrain_module(experiment, build_network(experiment, genotype))
        try_training(experiment, module, experiment.data.retrain_loader(experiment.seed), test=False)


def try_training(experiment: Experiment, module: RetrainModule, loader: ResumableLoader, *, test: bool) -> None:
    """Tries module and loader on two samples, with the targets of the test set too where `test`; raises UsageError on errors."""
    network, data = module.network, experiment.data
    with as_usage_error():
        check_batches(experiment.trainer, loader)
        tested = data.test_targets() if test else None
        module.metric_names = try_once(network, network, data, module.task, data.train_targets(), tested)


def try_once(
    network: nn.Module,
    forward: Callable[..., Any],
    data: SearchDataModule,
    task: Task,
    *targets: Tensor | None,
) -> dict[str, list[str]]:
    """Tries data, network and task on two samples, in eval mode; changes neither the network nor random state.

    Args:
        network: The network that `forward` runs.
        forward: Called with the inputs of two samples.
        data: The data.
        task: Its loss and metrics are computed once.
        *targets: All targets of a split, to check them; None: not known.

    Returns:
        Metric -> names of its scalars.

    Raises:
        Exception: The error of a part.
    """
    inputs, target = data.example()
    for known in (*targets, target):
        if known is not None:
            task.check_target(known)
    with eval_mode(network), torch.no_grad(), untouched_rng():
        output = forward(*as_args(inputs))
        metrics = dict(task.metrics())
        update_metrics(metrics, task.loss(output, target), task.prediction(output), target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two samples are few for some metrics
            names = {name: list(scalars_of(name, metric.compute())) for name, metric in metrics.items()}
    first = next(iter(names))
    if names[first] != [first]:
        raise ValueError(f"metric {first!r} comes first and compares runs, so it must be one number")
    return names
