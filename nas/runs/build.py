"""The search module of a configuration: fresh, restored, and tried before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nas import checkpoint_io
from nas.data import SearchDataModule
from nas.errors import UsageError
from nas.evaluation import as_args
from nas.rng import derive_seed, seed_global_generators
from nas.runs.config import Experiment
from nas.runs.folder import RunFolder
from nas.search_module import SearchModule
from nas.tasks import Task


def build_search(experiment: Experiment) -> SearchModule:
    """The search module, weights drawn from the seed.

    Raises:
        UsageError: The parts do not fit together.
    """
    seed_global_generators(derive_seed(experiment.seed, "init"))
    with refusals():
        return SearchModule(**experiment.model, seed=experiment.seed)


def restore_search(folder: RunFolder, experiment: Experiment) -> SearchModule:
    """The module of a run in the state of its last checkpoint.

    Raises:
        ValueError: No checkpoint is whole.
    """
    module = build_search(experiment)
    module.load_state_dict(checkpoint_io.load(folder.last_checkpoint)["state_dict"])
    return module


@contextmanager
def refusals() -> Iterator[None]:
    """Turns the errors of trying parts together into the user's: nothing was written yet.

    Raises:
        UsageError: With the same message.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise UsageError(str(error)) from error


def try_once(
    network: nn.Module,
    forward: Callable[..., Any],
    data: SearchDataModule,
    task: Task,
    *targets: Tensor | None,
) -> None:
    """Tries data, network and task on two samples, in eval mode; leaves no trace in the network or in random state.

    Args:
        network: What `forward` runs.
        forward: Called with the inputs of two samples.
        data: The data.
        task: Its loss is computed once.
        *targets: Looked at as far as they are known beforehand.
    """
    inputs, target = data.example()
    for known in (*targets, target):
        if known is not None:
            task.check_target(known)
    training = network.training
    network.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        task.loss(forward(*as_args(inputs)), target)
    network.train(training)
