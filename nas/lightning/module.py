"""A LightningModule of the user: its network, its training step on another batch, and its logging."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.connectors.data_connector import _is_dataloader_shuffled
from pytorch_lightning.trainer.states import RunningStage
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from nas.supernet.base import ChoiceModule
from nas.supernet.supernet import Supernet


def network_of(module: pl.LightningModule, name: str | None) -> tuple[nn.Module, str | None]:
    """The network with choices, and the name of its attribute.

    It is the attribute `name`; of None the one that holds all choices; if there is none, or of ``""``, the module itself without a name.

    Raises:
        ValueError: There are no choices, some are outside of the network, or the module has a supernet already.
    """
    title = type(module).__name__
    if any(isinstance(part, Supernet) for part in module.modules()):
        raise ValueError(
            f"{title} holds a nas.Supernet; SearchCallback makes its own: give the module the network with its choices"
        )
    places = [path for path, part in module.named_modules() if isinstance(part, ChoiceModule)]
    if not places:
        raise ValueError(f"{title} has no choices: put nas.choice or another choice into its network")
    owners = dict.fromkeys(path.partition(".")[0] for path in places)
    if name == "":
        return module, None
    if name is None:
        name = next(iter(owners))
        found = getattr(module, name)
        is_network = len(owners) == 1 and "." in places[0] and not isinstance(found, (nn.ModuleList, nn.ModuleDict))
        return (found, name) if is_network else (module, None)
    found = getattr(module, name, None)
    if not isinstance(found, nn.Module):
        raise ValueError(f"{title} has no network {name!r}")
    if outside := [path for path in places if not f"{path}.".startswith(f"{name}.")]:
        raise ValueError(f"{title}.{outside[0]} is a choice outside of the network {name!r}")
    return found, name


def lengths(trainer: pl.Trainer) -> tuple[int, int]:
    """Training batches of an epoch, and of the whole fit; sets up the training loader.

    Raises:
        ValueError: The fit has no end that is known, or no batches.
    """
    trainer.fit_loop.setup_data()
    per_epoch, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    ends = []
    if per_epoch != float("inf") and trainer.max_epochs is not None and trainer.max_epochs > 0:
        ends.append(int(per_epoch) * trainer.max_epochs)
    if trainer.max_steps > 0 and per_epoch == float("inf"):
        ends.append(trainer.max_steps * accumulated)
    elif trainer.max_steps > 0 and per_epoch:
        epochs, rest = divmod(trainer.max_steps, -(-int(per_epoch) // accumulated))
        ends.append(epochs * int(per_epoch) + rest * accumulated)
    if not ends or not min(ends):
        raise ValueError(
            "SearchCallback anneals tau over the training: give the Trainer max_epochs or max_steps, and loaders batches and a length"
        )
    return min(ends) if per_epoch == float("inf") else int(per_epoch), min(ends)


def arch_loader(trainer: pl.Trainer, data: Any) -> Any:
    """The batches that train alpha: `data`, or the first validation loader. Under ``ddp`` each process reads its part.

    Raises:
        ValueError: There is neither.
    """
    if data is None:
        data = trainer.val_dataloaders
        if data is None:
            raise ValueError(
                "SearchCallback needs arch_data, batches that train alpha: the Trainer has no validation loader to take them from"
            )
        data = getattr(data, "iterables", data)  # of a CombinedLoader
        if isinstance(data, Mapping):
            data = list(data.values())
        return data[0] if isinstance(data, (list, tuple)) else data
    shuffle = isinstance(data, DataLoader) and _is_dataloader_shuffled(data)
    return trainer._data_connector._prepare_dataloader(data, shuffle=shuffle, mode=RunningStage.VALIDATING)


def training_step(module: pl.LightningModule, batch: Any, batch_idx: int) -> Any:
    """Calls ``training_step`` with as many arguments as it takes."""
    step: Any = module.training_step
    return step(batch, batch_idx) if len(inspect.signature(step).parameters) > 1 else step(batch)


def on_device(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """A batch after all hooks of its transfer, as the Trainer does it for training batches."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


@contextmanager
def quiet(module: pl.LightningModule) -> Iterator[None]:
    """Inside the block, the module logs nothing, and its metrics keep their state."""
    metrics = [part for part in module.modules() if isinstance(part, Metric)]
    states = [
        (
            {name: copy.copy(value) for name, value in metric.metric_state.items()},
            metric._update_count,
            metric._computed,
        )
        for metric in metrics
    ]
    for metric in metrics:
        metric.reset()
    vars(module)["log"] = lambda *_, **__: None
    try:
        yield
    finally:
        del vars(module)["log"]
        for metric, (state, count, computed) in zip(metrics, states, strict=True):
            for name, value in state.items():
                setattr(metric, name, value)
            metric._update_count, metric._computed = count, computed


@contextmanager
def using(module: pl.LightningModule, network: nn.Module, other: nn.Module) -> Iterator[pl.LightningModule]:
    """A module that calls `other` instead of its network: the module itself, or `other` if the module is the network."""
    if isinstance(other, pl.LightningModule) and network is module:
        other.trainer = module.trainer
        yield other
        return
    name = next(name for name, part in module.named_children() if part is network)
    setattr(module, name, other)
    try:
        yield module
    finally:
        setattr(module, name, network)
