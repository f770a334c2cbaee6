"""The network of a run: retrained, or else derived with inherited weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from nas.derive.inherited import InheritedScore
from nas.genotype import Genotype
from nas.io.errors import UsageError, as_usage_error
from nas.runs.build import restore_network, restore_search
from nas.runs.config import Experiment, load_experiment
from nas.runs.folder import RunFolder
from nas.runs.judging import searched_of
from nas.runs.trainer import prepare_machine
from nas.tasks import Task


class Found(NamedTuple):
    """A network of a run.

    Attributes:
        network: The network with its weights, on `device` or the CPU.
        origin: A description of the weights.
        folder: The folder of a finished retraining, otherwise of the search.
        experiment: The configuration, loaded for the folder's stage.
        genotype: The architecture.
        task: The task of the training.
        device: The configured device.
        plain: False if `network` is a supernet that runs one architecture.
    """

    network: nn.Module
    origin: str
    folder: RunFolder
    experiment: Experiment
    genotype: Genotype
    task: Task
    device: torch.device
    plain: bool = True

    def check_plain(self) -> None:
        """Raises UsageError if `plain` is false."""
        if not self.plain:
            raise UsageError(
                f"{self.folder.shown}: networks of this space cannot inherit the supernet's weights; "
                f"retrain the network first: nas retrain --run {self.folder.quoted}"
            )


def find_network(path: Path, trusted: tuple[str, ...] = ()) -> Found:
    """The retrained network of a run, otherwise the derived network with inherited weights.

    Raises:
        UsageError: The folder is not a run folder, or the run is not finished.
        ValueError: No checkpoint is intact.
    """
    folder = RunFolder.open(path)
    if folder.stage == "search" and folder.retrain.finished:
        folder = folder.retrain
    experiment = load_experiment(folder.source(trusted), stage=folder.stage)
    device = prepare_machine(experiment.trainer)
    if folder.stage == "retrain":
        folder.read_summary()  # refuses a retraining that is not finished
        network, task = restore_network(folder, experiment), experiment.retrain_task
        return Found(network, "retrained", folder, experiment, folder.read_genotype(), task, device)
    genotype = folder.read_genotype()
    module = restore_search(folder, experiment)
    with as_usage_error(str(folder.genotype)):
        network = InheritedScore(searched_of(module, experiment.data, device)).network(genotype.choices)
    plain = module.space.inherits_weights
    return Found(network, "derived, inherited weights", folder, experiment, genotype, module.task, device, plain)
