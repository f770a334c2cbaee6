"""Evaluation of a plain network, and the statistics of its batch norms."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torchmetrics import MeanMetric, Metric

from nas.costs.functions import batch_size
from nas.supernet.bound import BoundSupernet
from nas.supernet.modules import eval_mode
from nas.supernet.supernet import Supernet
from nas.tasks import Task


class SampleMean(MeanMetric):
    """The mean over samples, not finite if one of them is not: ``nan_strategy="disable"`` of torchmetrics 1.9 leaves weights out."""

    def update(self, value: torch.Tensor, weight: float = 1.0) -> None:  # type: ignore[override]  # of one number
        """Adds the mean of `weight` samples."""
        self.mean_value = self.mean_value + value * weight
        self.weight = self.weight + weight


def call_network(network: nn.Module, inputs: Any, **kwargs: Any) -> Any:
    """Calls `network` with the inputs of a batch; see :func:`as_args`."""
    return network(*as_args(inputs, network), **kwargs)


def observed(task: Task, network: nn.Module, inputs: Any, **kwargs: Any) -> Any:
    """The output of :func:`call_network` for the task's loss, which comes next."""
    with task.observing(_inner(network)):
        return call_network(network, inputs, **kwargs)


def prepared(task: Task, network: nn.Module, batch: Any) -> tuple[Any, Any]:
    """A batch with the target that the task's loss needs."""
    inputs, target = batch
    return inputs, task.prepare(as_args(inputs, network), target)


def as_args(inputs: Any, network: nn.Module) -> tuple[Any, ...]:
    """A batch's inputs as positional arguments of a network: one input, or the elements of a tuple or list.

    A dict with names of the network's arguments holds these arguments; arguments between them get their defaults.

    Raises:
        ValueError: The items of a dict are not the network's arguments.
    """
    if isinstance(inputs, dict):
        return _by_name(inputs, _inner(network))
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def _inner(network: nn.Module) -> nn.Module:
    """The network of a supernet."""
    return network.network if isinstance(network, (Supernet, BoundSupernet)) else network


def _by_name(inputs: dict[Any, Any], network: nn.Module) -> tuple[Any, ...]:
    signature = inspect.signature(network.forward)
    if signature.parameters.keys().isdisjoint(inputs):
        return (inputs,)  # the network takes the dict
    names = [name for name, parameter in signature.parameters.items() if parameter.kind is _POSITIONAL]
    try:
        bound = signature.bind(**inputs)
        last = max(map(names.index, inputs))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"inputs are {', '.join(map(str, inputs))}, but {type(network).__name__} takes {', '.join(names)} by position ({error})"
        ) from None
    bound.apply_defaults()
    return tuple(bound.arguments[name] for name in names[: last + 1])


_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD


def to_device(item: Any, device: torch.device) -> Any:
    """Moves all tensors inside tuples, lists and dicts to `device`."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, non_blocking=True), item)


def first_samples(item: Any, number: int = 1) -> Any:
    """Cuts all tensors inside tuples, lists and dicts to their first samples."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor[:number], item)


def as_floats_of(network: nn.Module, batches: Iterable[Any]) -> Iterator[Any]:
    """Casts floating-point inputs of batches to the dtype of a network's parameters, as a trainer's precision does."""
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    for inputs, target in batches:
        yield tree_map_only(torch.Tensor, cast, inputs), target


def split_batch(inputs: Any, target: Any, num_parts: int) -> list[tuple[Any, Any]]:
    """Splits a batch into parts of nearly equal size, along the first dimension of every tensor."""
    if num_parts == 1:
        return [(inputs, target)]
    if (size := batch_size(target)) < num_parts:
        raise ValueError(f"a batch of {size} samples cannot be split into {num_parts}")
    leaves, structure = tree_flatten((inputs, target))
    split = [leaf.tensor_split(num_parts) if isinstance(leaf, torch.Tensor) else (leaf,) * num_parts for leaf in leaves]
    return [tree_unflatten(list(part), structure) for part in zip(*split, strict=True)]


def joined(parts: Sequence[Any]) -> Any:
    """Joins the results of the parts of a batch: the inverse of :func:`split_batch`."""
    if len(parts) == 1:
        return parts[0]
    flat = [tree_flatten(part) for part in parts]
    leaves = [
        torch.cat(list(leaf)) if isinstance(leaf[0], torch.Tensor) else leaf[0]
        for leaf in zip(*(leaves for leaves, _ in flat), strict=True)
    ]
    return tree_unflatten(leaves, flat[0][1])


def evaluate(
    network: nn.Module,
    loader: Iterable[Any],
    task: Task,
    device: torch.device,
    others: Mapping[str, Metric] | None = None,
) -> dict[str, float]:
    """The loss and the task's metrics over all samples, in eval mode; the network's mode is restored.

    Names of `others`, further metrics, must differ from the names of the task's metrics.
    """
    return measured(network, loader, task, device, {"loss": SampleMean(), **task.metrics(), **(others or {})})


def mean_loss(network: nn.Module, loader: Iterable[Any], task: Task, device: torch.device) -> float:
    """The loss of :func:`evaluate` alone, without the time of the task's metrics."""
    return measured(network, loader, task, device, {"loss": SampleMean()})["loss"]


@torch.no_grad()
def measured(
    network: nn.Module, loader: Iterable[Any], task: Task, device: torch.device, metrics: Mapping[str, Any]
) -> dict[str, float]:
    """The given metrics over all samples, in eval mode; the mode of each submodule is restored."""
    network.to(device)
    for metric in metrics.values():
        metric.to(device)
    with eval_mode(network):
        for inputs, target in loader:
            task.check_target(target)
            inputs, target = prepared(task, network, to_device((inputs, target), device))
            output = call_network(network, inputs)
            update_metrics(metrics, task.loss(output, target), task.prediction(output), task.truth(target))
    result: dict[str, float] = {}
    for name, metric in metrics.items():
        result |= scalars_of(name, metric.compute())
    return result


def scalars_of(name: str, value: Any) -> dict[str, float]:
    """The value of a metric, by name: one number, or the elements of a vector as ``name/0``, ``name/1``, ..."""
    if isinstance(value, torch.Tensor) and value.dim() == 1 and value.numel() != 1:
        return {f"{name}/{i}": float(element) for i, element in enumerate(value)}
    try:
        return {name: float(value)}
    except (TypeError, ValueError, RuntimeError):
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"metric {name!r} must be a number or a vector, got {shape}") from None


@torch.no_grad()
def update_metrics(metrics: Mapping[str, Any], loss: torch.Tensor, output: Any, target: Any) -> None:
    """Adds one batch. The metric ``loss`` averages the loss over samples; other metrics get (output, target)."""
    for name, metric in metrics.items():
        if name == "loss":
            metric.update(loss.detach(), weight=batch_size(target))
        else:
            metric.update(tree_map_only(torch.Tensor, _dense, output), tree_map_only(torch.Tensor, _dense, target))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Detached and contiguous, because some metrics call ``view``."""
    return tensor.detach().contiguous()


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, loader: Iterable[Any], device: torch.device) -> bool:
    """Replaces the running statistics of every batch norm by the mean over `loader`; other layers run in eval mode.

    A derived network inherits statistics of mixed activations, which differ from its own. Returns whether the network has batch norms;
    without batch norms nothing runs.
    """
    if not batch_norms(network):
        return False
    network.to(device)
    with recalibrating(network):
        for inputs, target in loader:
            if batch_size(target) > 1:  # one sample has no variance
                call_network(network, to_device(inputs, device))
    return True


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms with running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextmanager
def recalibrating(network: nn.Module) -> Iterator[None]:
    """Forward passes inside the block replace the running statistics of every batch norm by their mean over these passes."""
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    with eval_mode(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
