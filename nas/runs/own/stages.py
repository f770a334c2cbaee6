"""What commands do with the run folder of a search in training code of the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas.costs.functions import latency_ms, num_macs, num_params
from nas.derive import Argmax, DeriveStrategy
from nas.genotype import Genotype
from nas.io.errors import UsageError
from nas.runs.folder import RunFolder
from nas.runs.networks import read_network
from nas.runs.own.costs import all_by_position
from nas.runs.own.folder import INPUTS, read_inputs
from nas.runs.spaces import save_genotype


class Own(NamedTuple):
    """The result of such a search.

    Attributes:
        folder: The run folder.
        genotype: The found architecture.
        network: The derived network with its weights, in eval mode on the CPU.
        summary: The content of summary.json.
    """

    folder: RunFolder
    genotype: Genotype
    network: nn.Module
    summary: dict[str, Any]

    def by_position(self) -> tuple[Tensor, ...]:
        """The arguments of the network for one sample; raises UsageError if there are none, or if some are passed by keyword."""
        path = self.folder.path / INPUTS
        args, keywords = read_inputs(path)
        if keywords:
            raise UsageError(
                f"{path}: {next(iter(keywords))} is a keyword of the network; exports take arguments by position"
            )
        return args


def read_own(path: Path, trusted: tuple[str, ...]) -> Own:
    """Reads the folder of a finished search; raises UsageError if it is unfinished, damaged, or names a module that is not trusted."""
    summary = RunFolder.open(path).read_summary()
    with torch.random.fork_rng():
        folder, genotype, network = read_network(path, trusted)
    return Own(folder, genotype, network.eval(), summary)


def evaluate_own(path: Path, trusted: tuple[str, ...]) -> dict[str, Any]:
    """The metrics that the loop measured, and the costs of the network."""
    own = read_own(path, trusted)
    network, inputs = all_by_position(own.network, *read_inputs(own.folder.path / INPUTS))
    return {
        "network": "derived, inherited weights",
        **own.summary["metrics"],
        "params": num_params(network),
        "macs": num_macs(network, inputs),
        "latency_ms": latency_ms(network, inputs),
        "device": "cpu",
    }


def derive_own(folder: RunFolder, strategy: DeriveStrategy, out: Path | None) -> dict[str, Any]:
    """The summary of the search; raises UsageError for another strategy than the most probable architecture, which needs its data."""
    if type(strategy) is not Argmax:
        name = type(strategy).__name__
        raise UsageError(f"{folder.shown}: this search ran in training code of your own; {name} needs its data")
    save_genotype(folder.read_genotype(), out)
    return folder.read_summary()
