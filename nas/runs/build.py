"""The search module of a configuration: fresh, restored, and tried before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from nas import checkpoint_io
from nas.data import SearchDataModule
from nas.errors import UsageError
from nas.evaluation import as_args
from nas.rng import derive_seed, seed_global_generators
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder
from nas.search_module import SearchModule
from nas.tasks import Task

Loader = TypeVar("Loader")


def build_search(experiment: Experiment) -> SearchModule:
    """The search module, weights drawn from the seed.

    Raises:
        UsageError: The parts do not fit together.
    """
    seed_global_generators(derive_seed(experiment.seed, "init"))
    try:
        return SearchModule(**experiment.model, seed=experiment.seed)
    except (ValueError, TypeError) as error:
        raise UsageError(f"model: {error}") from error


def restore_search(folder: RunFolder, experiment: Experiment) -> SearchModule:
    """The module of a run in the state of its last checkpoint.

    Raises:
        ValueError: No checkpoint is whole.
    """
    module = build_search(experiment)
    module.load_state_dict(checkpoint_io.load(folder.last_checkpoint)["state_dict"])
    return module


def check_run(
    network: nn.Module,
    forward: Callable[..., Any],
    data: SearchDataModule,
    task: Task,
    make_loader: Callable[[], Loader],
) -> Loader:
    """Tries data, network and task together, in eval mode, and leaves no trace in the network or in random state.

    Args:
        network: What `forward` runs.
        forward: Called with the inputs of two samples.
        data: The data.
        task: Its loss is computed once.
        make_loader: Makes the training loader, which checks sizes.

    Returns:
        The training loader.

    Raises:
        UsageError: They do not fit.
    """
    training = network.training
    try:
        loader = make_loader()
        targets = data.train_targets()
        if targets is not None:
            task.check_target(targets)
        inputs, target = data.example()
        task.check_target(target)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.eval()
            task.loss(forward(*as_args(inputs)), target)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise UsageError(str(error)) from error
    finally:
        network.train(training)
    return loader
