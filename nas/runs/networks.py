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
from nas.runs.build import restore_search
from nas.runs.config import Experiment, load_experiment
from nas.runs.folder import RunFolder
from nas.runs.judging import searched_of
from nas.runs.kept import read_kept
from nas.runs.spaces import load_space_of
from nas.runs.trainer import prepare_machine
from nas.supernet.building import architecture
from nas.supernet.search_space import SearchSpace
from nas.tasks import Task

_PREFIX = "network."  # of the keys of RetrainModule.network


class Found(NamedTuple):
    """A network of a run.

    Attributes:
        network: The network with its weights, on `device`.
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
    genotype, space = folder.read_genotype(), experiment.model["space"]
    retrained = folder.stage == "retrain"
    network = _kept_network(folder, space, genotype)
    if network is None:
        module = restore_search(folder, experiment)
        with as_usage_error(str(folder.genotype)):
            network = InheritedScore(searched_of(module, experiment.data, device)).network(genotype.choices)
    return Found(
        network=network.to(device),
        origin="retrained" if retrained else "derived, inherited weights",
        folder=folder,
        experiment=experiment,
        genotype=genotype,
        task=experiment.retrain_task if retrained else experiment.model["task"],
        device=device,
        plain=retrained or space.inherits_weights,
    )


def read_network(path: Path, trusted: tuple[str, ...] = ()) -> tuple[RunFolder, Genotype, nn.Module]:
    """The folder, architecture and network of :func:`find_network`, the network on the CPU.

    Only the space of the configuration is made. A search of an earlier version, or one with a changed genotype, is derived from its
    checkpoint, which needs data, task and optimizers too.

    Raises:
        UsageError: The folder is not a run folder, the run is not finished, or its space is not trusted.
        ValueError: No checkpoint is intact.
    """
    folder = network_folder(path)
    genotype = folder.read_genotype()
    network = _kept_network(folder, load_space_of(folder.source(trusted), folder.stage), genotype)
    if network is None:
        found = find_network(path, trusted)
        found.check_plain()
        network = found.network.cpu()
    return folder, genotype, network


def network_folder(path: Path) -> RunFolder:
    """The folder of a finished retraining, otherwise of the search; raises UsageError for an unfinished retraining."""
    folder = RunFolder.open(path)
    if folder.stage == "search" and folder.retrain.finished:
        folder = folder.retrain
    if folder.stage == "retrain":
        folder.read_summary()  # refuses a retraining that is not finished
    return folder


def fill(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """The network with these weights; raises a UsageError that begins with `source` if they do not fit."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise UsageError(f"{source}: weights do not fit the network: {describe(error)}") from None
    return network


def _kept_network(folder: RunFolder, space: SearchSpace, genotype: Genotype) -> nn.Module | None:
    """The network with the weights in its folder; None if it must be derived from the checkpoint of the search."""
    weights: Mapping[str, Tensor] | None = None
    if folder.stage == "retrain":
        state = checkpoint_io.load(folder.last_checkpoint, fall_back=not folder.finished)["state_dict"]
        weights = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    elif space.inherits_weights:
        weights = read_kept(folder, genotype.choices)
    if weights is None:
        return None
    with as_usage_error(str(folder.genotype)):
        space.check_genotype(genotype.choices)
        with architecture(genotype):
            network = space.network(folder.stage)
    return fill(network, weights, folder.shown)
