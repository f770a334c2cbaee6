"""Builds the modules and networks of a configuration, restores them, and tries them before a run writes files."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from nas.data import SearchDataModule
from nas.data.loader import ResumableLoader
from nas.evaluation import observed, prepared, scalars_of, update_metrics
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
    """The search module, initialized from the seed; raises UsageError if its parts do not fit together."""
    seed_global_generators(derive_seed(experiment.seed, "init"))
    with as_usage_error():
        return SearchModule(**experiment.model, seed=experiment.seed)


def restore_search(folder: RunFolder, experiment: Experiment) -> SearchModule:
    """The search module with the weights of the last checkpoint; raises ValueError if no checkpoint is intact."""
    module = build_search(experiment)
    restore_weights(module, folder)
    module.use_average()
    return module


def restore_weights(module: TrainModule, folder: RunFolder) -> None:
    """Loads the last checkpoint. If it is damaged and the run is unfinished, loads the previous checkpoint.

    Raises:
        ValueError: No checkpoint is intact, or the checkpoint belongs to another run.
    """
    state = checkpoint_io.load(folder.last_checkpoint, fall_back=not folder.finished)
    try:
        module.load_state_dict(state["state_dict"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder.last_checkpoint}: not a checkpoint of this run: {error}") from error


def build_network(experiment: Experiment, genotype: Genotype) -> nn.Module:
    """The plain network of a genotype, initialized from the seed; raises UsageError if the genotype does not fit the space."""
    seed_global_generators(derive_seed(experiment.seed, "init/retrain"))
    space: SearchSpace = experiment.model["space"]
    with as_usage_error():
        space.check_genotype(genotype.choices)
        with architecture(genotype):
            return space.network("retrain")


def retrain_module(experiment: Experiment, network: nn.Module) -> RetrainModule:
    """The module that trains a network with the retrain settings; raises UsageError if the settings do not fit."""
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
    """Tries the retrain settings on one architecture before a search starts; raises UsageError if they do not work."""
    with as_usage_error("retrain"):
        module = retrain_module(experiment, build_network(experiment, genotype))
        try_training(experiment, module, experiment.data.retrain_loader(experiment.seed), test=False)


def try_training(experiment: Experiment, module: RetrainModule, loader: ResumableLoader, *, test: bool) -> None:
    """Tries the module on two samples and checks the targets (with `test` also the test targets); raises UsageError."""
    network, data = module.network, experiment.data
    with as_usage_error():
        check_batches(experiment.trainer, loader)
        tested = data.test_targets() if test else None
        module.metric_names = try_once(network, data, module.task, data.train_targets(), tested)


def try_once(
    network: nn.Module, data: SearchDataModule, task: Task, *targets: Tensor | None, **kwargs: Any
) -> dict[str, list[str]]:
    """Runs the network, the loss and the metrics on two samples in eval mode; changes neither the network nor random state.

    Also checks the given targets; None stands for unknown targets. `kwargs` go to the network. Errors of the parts pass through.

    Returns:
        Metric -> names of its scalars.
    """
    inputs, target = data.example()
    for known in (*targets, target):
        if known is not None:
            task.check_target(known)
    with eval_mode(network), torch.no_grad(), untouched_rng():
        inputs, target = prepared(task, network, (inputs, target))
        output = observed(task, network, inputs, **kwargs)
        metrics = dict(task.metrics())
        update_metrics(metrics, task.loss(output, target), task.prediction(output), task.truth(target))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some metrics warn about so few samples
            names = {name: list(scalars_of(name, metric.compute())) for name, metric in metrics.items()}
    first = next(iter(names))
    if names[first] != [first]:
        raise ValueError(f"metric {first!r} must be one number, because the first metric of a task compares runs")
    return names
