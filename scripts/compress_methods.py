"""The methods that scripts/compress.py compares: each makes a trained network smaller, as its users would write it."""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import compress_own
import torch
from compress_training import Samples, accuracy
from torch import nn
from torch.nn import functional as F

import nas
from nas.compression.config import Compression
from nas.costs import count_macs

STEPS = 100
"""Number of steps from the whole network to one without channels, for Torch-Pruning."""


@dataclass(frozen=True)
class Job:
    """One network to make smaller.

    Attributes:
        parent: The trained network.
        train: Training images.
        limit: Largest share of the parent's MACs.
        seed: Decides all draws of the method.
        model: The name of the class or function of the parent, as ``module:name``.
        weights: The file of the parent's state dict.
        data: The .npz file of the images.
        folder: Folder for the run of a search.
        epochs: Number of epochs of a search.
    """

    parent: nn.Module
    train: Samples
    limit: float
    seed: int
    model: str
    weights: Path
    data: Path
    folder: Path
    epochs: int

    @property
    def words(self) -> tuple[str, ...]:
        """Settings of a search that differ from those of ``nas compress``."""
        values = {"seed_everything": self.seed, "trainer.max_epochs": self.epochs, "trainer.precision": "bf16-mixed"}
        return tuple(f"--{key}={value}" for key, value in values.items())

    @property
    def example(self) -> torch.Tensor:
        """One image."""
        return self.train.images[:1]

    @property
    def max_macs(self) -> int:
        """The largest number of MACs."""
        return int(self.limit * count_macs(self.parent, (self.example,)))

    def last(self, network: nn.Module) -> list[nn.Module]:
        """The linear layers, which make the scores of the classes."""
        return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]

    def sample(self, number: int) -> Samples:
        """Some training images, which the seed decides."""
        order = torch.randperm(len(self.train.labels), generator=torch.Generator().manual_seed(self.seed))
        return Samples(self.train.images[order[:number]], self.train.labels[order[:number]])


def ours(job: Job, *words: str) -> nn.Module:
    """The search of ``nas compress``; `words` override its settings."""
    limits = {"macs": job.limit}
    wanted = Compression(
        model=job.model, weights=job.weights, data=str(job.data), limits=limits, overrides=(*job.words, *words)
    )
    return nas.search(wanted.source(), out=job.folder).network()


def soft(job: Job) -> nn.Module:
    """The same with soft samples instead of straight-through ones."""
    return ours(job, "--model.relaxation.init_args.hard=false")


def inner_step(job: Job) -> nn.Module:
    """The same with the loss after a step of the weights for alpha, which is a step of SGD."""
    sgd = '{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}'
    return ours(job, "--model.bilevel=nas.bilevel.Unrolled", f"--model.weight_optimizer={sgd}")


def fastnas(job: Job) -> nn.Module:
    """FastNAS of nvidia-modelopt; the score is the accuracy on 1,000 training images."""
    import modelopt.torch.prune as mtp

    network = copy.deepcopy(job.parent)
    scored, calibration = job.sample(1_000), job.sample(5_000).images.split(100)
    settings = {"nn.Conv2d": {"*": {"channel_divisor": 8}}, "nn.BatchNorm2d": {"*": {"feature_divisor": 8}}}
    config = {"score_func": lambda net: accuracy(net, scored), "data_loader": calibration, "collect_func": lambda x: x}
    limits = {"flops": f"{100 * job.limit:g}%"}
    network, _ = mtp.prune(network, [("fastnas", settings)], limits, job.example, {**config, "verbose": False})
    return network


def magnitude(job: Job) -> nn.Module:
    """Torch-Pruning with group norms, over all layers, in small steps until the limit is met."""
    import torch_pruning as tp

    network = copy.deepcopy(job.parent)
    pruner = tp.BasePruner(
        network,
        job.example,
        tp.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        pruning_ratio=0.95,
        max_pruning_ratio=0.95,
        iterative_steps=STEPS,
        ignored_layers=job.last(network),
    )
    while count_macs(network, (job.example,)) > job.max_macs:
        pruner.step()
    return network


def taylor(job: Job) -> nn.Module:
    """Torch-Pruning with weight times gradient on 500 training images."""
    import torch_pruning as tp

    network, (images, labels) = copy.deepcopy(job.parent).eval(), job.sample(500)
    pruner = tp.BasePruner(
        network,
        job.example,
        tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=0.95,
        max_pruning_ratio=0.95,
        iterative_steps=STEPS,
        ignored_layers=job.last(network),
    )
    while count_macs(network, (job.example,)) > job.max_macs:
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        pruner.step()
    return network


def uniform(job: Job) -> nn.Module:
    """The largest share of all channels that keeps the limit; the channels of the largest magnitude are kept."""
    shares = [number / 32 for number in range(32, 0, -1)]
    found = nas.convert(job.parent, (job.example,), width=shares, multiple=1, depth=False, verbose=False)
    supernet = nas.Supernet(found)
    for share in shares:
        widths = {name: [int(label) for label in labels] for name, labels in supernet.choices.items()}
        choices = {name: str(min(of, key=lambda n: abs(n - share * max(of)))) for name, of in widths.items()}
        network = supernet.derive(choices)
        if count_macs(network, (job.example,)) <= job.max_macs:
            return network
    raise ValueError(f"no share of the channels keeps {job.limit:g} of the MACs")


def parent(job: Job) -> nn.Module:
    """The network itself."""
    return copy.deepcopy(job.parent)


METHODS: dict[str, Callable[[Job], nn.Module]] = {
    "ours": ours,
    "fastnas": fastnas,
    "magnitude": magnitude,
    "taylor": taylor,
    "soft": soft,
    "inner-step": inner_step,
    "block-scores": compress_own.block_scores,
    "block-scores-tuned": compress_own.block_scores_tuned,
    "evolution": compress_own.evolution,
    "random": compress_own.random_one,
    "uniform": uniform,
    "parent": parent,
}
PACKAGES = {
    "modelopt": "nvidia-modelopt and torchprofile",
    "torchprofile": "torchprofile",
    "torch_pruning": "torch-pruning",
}
"""Modules that a method imports -> the packages to install."""


def lines_of(method: Callable[[Job], nn.Module]) -> int:
    """The number of lines of a method, without its head and docstring."""
    (function,) = ast.parse(inspect.getsource(method)).body
    assert isinstance(function, ast.FunctionDef)
    return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in function.body[1:])
