"""The network of a run: retrained, or else derived with inherited weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nas.derive.inherited import InheritedScore
from nas.genotype import Genotype
from nas.io import checkpoint_io
from nas.io.errors import UsageError, as_usage_error, describe
from nas.runs.build import restore_network, restore_search
from nas.runs.config import Experiment, load_experiment
from nas.runs.folder import RunFolder
from nas.runs.judging import searched_of
from nas.runs.kept import read_kept
from nas.runs.spaces import load_space_of
from nas.runs.trainer import prepare_machine
from nas.supernet.building import architecture
from nas.supernet.search_space import SearchSpace
from nas.tasks import Task

INHERITED = "derived, inherited weights"


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
    folder = network_folder(path)
    experiment = load_experiment(folder.source(trusted), stage=folder.stage)
    device = prepare_machine(experiment.trainer)
    genotype = folder.read_genotype()
    if folder.stage == "retrain":
        network, task = restore_network(folder, experiment), experiment.retrain_task
        return Found(network, "retrained", folder, experiment, genotype, task, device)
    space, task = experiment.model["space"], experiment.model["task"]
    if not space.inherits_weights or (weights := read_kept(folder, genotype.choices)) is None:
        module = restore_search(folder, experiment)
        with as_usage_error(str(folder.genotype)):
            network = InheritedScore(searched_of(module, experiment.data, device)).network(genotype.choices)
    else:
        network = _filled(folder, space, genotype, weights).to(device)
    return Found(network, INHERITED, folder, experiment, genotype, task, device, space.inherits_weights)


def read_network(path: Path, trusted: tuple[str, ...] = ()) -> tuple[RunFolder, Genotype, nn.Module]:
    """The network that :func:`find_network` gives, on the CPU, without the data, task and optimizers of its configuration.

    A search of an earlier version, or one whose genotype was changed, is derived from its checkpoint, which needs all of them.

    Returns:
        The folder of the network, its architecture, and the network.

    Raises:
        UsageError: The folder is not of a run, or not finished, or its space is not trusted.
        ValueError: No checkpoint is whole.
    """
    folder = network_folder(path)
    genotype = folder.read_genotype()
    space = load_space_of(folder.source(trusted), folder.stage)
    if folder.stage == "retrain":
        state = checkpoint_io.load(folder.last_checkpoint, fall_back=False)["state_dict"]
        weights: dict[str, Tensor] | None = {
            key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")
        }
    else:
        weights = read_kept(folder, genotype.choices) if space.inherits_weights else None
    if weights is None:
        found = find_network(path, trusted)
        found.check_plain()
        return folder, genotype, found.network.cpu()
    return folder, genotype, _filled(folder, space, genotype, weights)


def network_folder(path: Path) -> RunFolder:
    """The folder of the retraining of a run where it is finished, else of the search; raises UsageError where neither is."""
    folder = RunFolder.open(path)
    if folder.stage == "search" and folder.retrain.finished:
        folder = folder.retrain
    if folder.stage == "retrain":
        folder.read_summary()  # refuses a retraining that is not finished
    return folder


def _filled(folder: RunFolder, space: SearchSpace, genotype: Genotype, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network of a genotype with weights of its run."""
    with as_usage_error(str(folder.genotype)), architecture(genotype):
        network = space.network(folder.stage)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise UsageError(
            f"{folder.shown}: weights do not fit the network of genotype.json: {describe(error)}"
        ) from None
    return network
