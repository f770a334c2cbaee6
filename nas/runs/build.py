"""The search module of a configuration: fresh, restored, and tried before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nas.data import SearchDataModule
from nas.evaluation import as_args, scalars_of, update_metrics
from nas.io import checkpoint_io
from nas.io.errors import UsageError, describe
from nas.io.rng import derive_seed, seed_global_generators, untouched_rng
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder
from nas.supernet.modules import eval_mode
from nas.tasks import Task
from nas.training.search_module import SearchModule
from nas.training.train_module import TrainModule


def build_search(experiment: Experiment) -> SearchModule:
    """The search module, weights drawn from the seed.

    Raises:
        UsageError: The parts do not fit together.
    """
    seed_global_generators(derive_seed(experiment.seed, "init"))
    with as_usage_error():
        return SearchModule(**experiment.model, seed=experiment.seed)


def restore_search(folder: RunFolder, experiment: Experiment) -> SearchModule:
    """The module of a run in the state of its last checkpoint.

    Raises:
        ValueError: No checkpoint is whole.
    """
    module = build_search(experiment)
    restore_weights(module, folder)
    module.use_average()
    return module


def restore_weights(module: TrainModule, folder: RunFolder) -> None:
    """Loads the last checkpoint; of a finished run no other will do.

    Raises:
        ValueError: It is not whole, or not of this run.
    """
    state = checkpoint_io.load(folder.last_checkpoint, fall_back=not folder.finished)
    try:
        module.load_state_dict(state["state_dict"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder.last_checkpoint}: not a checkpoint of this run: {error}") from error


@contextmanager
def as_usage_error(where: str = "") -> Iterator[None]:
    """Turns the errors of trying parts together into the user's: nothing was written yet.

    Args:
        where: What the message begins with.

    Raises:
        UsageError: With the same message, and the kind of error where it is not a plain ValueError.
    """
    try:
        yield
    except Exception as error:
        raise UsageError(f"{where}: {describe(error)}" if where else describe(error)) from error


def try_once(
    network: nn.Module,
    forward: Callable[..., Any],
    data: SearchDataModule,
    task: Task,
    *targets: Tensor | None,
) -> dict[str, list[str]]:
    """Tries data, network and task on two samples, in eval mode; leaves no trace in the network or in random state.

    Args:
        network: What `forward` runs.
        forward: Called with the inputs of two samples.
        data: The data.
        task: Its loss and metrics are computed once.
        *targets: Looked at as far as they are known beforehand.

    Returns:
        Metric -> names of its scalars.

    Raises:
        Exception: Whatever a part says.
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
            warnings.simplefilter("ignore")  # of metrics that two samples say little of
            names = {name: list(scalars_of(name, metric.compute())) for name, metric in metrics.items()}
    first = next(iter(names))
    if names[first] != [first]:
        raise ValueError(f"metric {first!r} comes first and is what runs are compared by, so it must be one number")
    return names
