"""Forecast of the peak memory of a search, from two small batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from nas.evaluation import observed, prepared
from nas.io.rng import keyed_generator, untouched_rng
from nas.relaxations import OpWeights
from nas.supernet.base import ChoiceModule
from nas.supernet.modules import copied
from nas.training.schedules import OptimizerFactory
from nas.training.search_module import SearchModule

SMALL_BATCHES = (2, 4)
LARGE_BATCH = 64
ROUNDS = 3


@dataclass(frozen=True)
class Forecast:
    """Peak bytes of one training step.

    Attributes:
        weights: Parameters and buffers, alpha included.
        gradients: Gradients of all trained parameters.
        optimizer_states: States of both optimizers.
        saved_fixed: Saved tensors that do not grow with the batch.
        saved_per_sample: Saved tensors of each sample.
    """

    weights: int
    gradients: int
    optimizer_states: int
    saved_fixed: float
    saved_per_sample: float

    def saved(self, batch_size: int) -> float:
        """Bytes of the tensors that autograd saves for the backward pass."""
        return self.saved_fixed + self.saved_per_sample * batch_size

    def total(self, batch_size: int) -> float:
        """Bytes of the whole step."""
        return self.weights + self.gradients + self.optimizer_states + self.saved(batch_size)

    def largest_batch(self, memory: float) -> int:
        """The largest batch whose step fits into `memory` bytes; 0 if no batch does."""
        room = memory - self.total(0)
        return max(0, int(room / self.saved_per_sample)) if self.saved_per_sample > 0 else 0


class BatchNormSizes(TorchDispatchMode):
    """Gives empty outputs of batch norm on the meta device. There torch runs it in Python, which takes most of a forecast."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_training = func is torch.ops.aten.native_batch_norm.default and args[5]
        if not is_training or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        output = torch.empty_like(args[0])
        mean = output.new_empty(output.shape[1], dtype=torch.promote_types(output.dtype, torch.float32))
        return output, mean, torch.empty_like(mean)


def forecast(module: SearchModule, example: Any) -> dict[str, Forecast]:
    """Forecasts for three ways to run candidates; `example` is a batch (inputs, target) of two samples.

    ``soft``: all candidates run. ``sampled``: one candidate of each choice runs; the mean over random paths. ``sampled_largest``: the path
    whose candidates save the most tensors. A copy of `module` runs on the meta device, which computes sizes only, or else on the CPU.
    """
    try:
        return _forecast(copied(module).to("meta"), tree_map_only(Tensor, lambda t: t.to("meta"), example))
    except (RuntimeError, ValueError, TypeError, AttributeError):
        # the network reads values, or an operation has no meta kernel
        return _forecast(copied(module), example)


def _forecast(module: SearchModule, example: Any) -> dict[str, Forecast]:
    module.train()
    supernet = module.supernet
    weights = [*module.weight_parameters(), *supernet.buffers()]
    arch = module.arch_parameters()
    trained = [p for p in (*module.weight_parameters(), *arch) if p.requires_grad]
    fixed = {
        "weights": _num_bytes([*weights, *arch, *(() if module.averaged is None else module.averaged.parameters())]),
        "gradients": _num_bytes(trained),
        "optimizer_states": _state_bytes(module.weight_optimizer, module.weight_parameters())
        + (_state_bytes(module.arch_optimizer, arch) if arch else 0),
    }

    known = [*module.parameters(), *module.buffers()]

    def measured(op_weights: OpWeights) -> tuple[float, float]:
        batches = [_batch_of(example, size) for size in SMALL_BATCHES]
        small, large = (saved_bytes(partial(_loss, module, batch, op_weights), known) for batch in batches)
        slope = (large - small) / (SMALL_BATCHES[1] - SMALL_BATCHES[0])
        return small - slope * SMALL_BATCHES[0], slope

    with untouched_rng(), BatchNormSizes():
        soft = measured(_all_candidates(module))
        paths = [measured(path) for path in _even_paths(module)]
        largest = measured(_largest_path(module, example))
    mean = tuple(sum(values) / len(paths) for values in zip(*paths, strict=True))
    largest = max([largest, *paths], key=lambda saved: saved[0] + saved[1] * LARGE_BATCH)
    found = {"soft": soft, "sampled": mean, "sampled_largest": largest}
    return {mode: Forecast(**fixed, saved_fixed=saved[0], saved_per_sample=saved[1]) for mode, saved in found.items()}


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _state_bytes(factory: OptimizerFactory, parameters: Sequence[nn.Parameter]) -> int:
    """Bytes of an optimizer's state after its first step."""
    copies = [nn.Parameter(torch.zeros_like(p), p.requires_grad) for p in parameters]
    for parameter in copies:
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer = factory(copies)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    return _num_bytes(value for value in values if isinstance(value, Tensor))


def saved_bytes(forward: Callable[[], Any], exclude: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages that autograd saves for the backward pass of `forward`, without those of `exclude`."""
    known = {_storage_id(tensor) for tensor in exclude}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in known:
            kept[_storage_id(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(kept.values())


def _storage_id(tensor: Tensor) -> int:
    """An id of the storage, equal for its views; the meta device has no addresses."""
    return tensor.untyped_storage()._cdata


def _batch_of(example: Any, size: int) -> Any:
    """A batch of `size` samples that repeats the samples of `example`."""
    return tree_map_only(Tensor, lambda t: t.repeat(-(-size // len(t)), *[1] * (t.dim() - 1))[:size], example)


def _loss(module: SearchModule, batch: Any, op_weights: OpWeights) -> Tensor:
    inputs, target = prepared(module.task, module.supernet, batch)
    return module.task.loss(observed(module.task, module.supernet, inputs, op_weights=op_weights), target)


def _all_candidates(module: SearchModule) -> OpWeights:
    weights = module.supernet.mask / module.supernet.mask.sum(-1, keepdim=True)
    return OpWeights(module.supernet.fill_input_rows(weights.requires_grad_(bool(module.supernet.choices))), None)


def _path(module: SearchModule, index: Tensor) -> OpWeights:
    weights = torch.zeros_like(module.supernet.alpha, requires_grad=False)
    weights.scatter_(1, index[:, None].to(weights.device), 1.0)
    return OpWeights(module.supernet.fill_input_rows(weights.requires_grad_()), index[:, None])


def _even_paths(module: SearchModule) -> list[OpWeights]:
    """Random paths that run the candidates of a choice equally often, or nearly so."""
    sizes = [len(labels) for labels in module.supernet.choices.values()]
    if not sizes:
        return [_all_candidates(module)]
    number, generator = ROUNDS * max(sizes), keyed_generator(0, "paths")
    rows = [torch.arange(number)[torch.randperm(number, generator=generator)] % size for size in sizes]
    return [_path(module, index) for index in torch.stack(rows).unbind(1)]


def _largest_path(module: SearchModule, example: Any) -> OpWeights:
    """The path of the candidates that save the most bytes for the backward pass."""
    supernet = module.supernet
    if not supernet.choices:
        return _all_candidates(module)
    kept = _bytes_inside(module, _batch_of(example, SMALL_BATCHES[0]))
    sizes = [[kept.get((name, label), 0) for label in labels] for name, labels in supernet.choices.items()]
    return _path(module, torch.tensor([row.index(max(row)) for row in sizes]))


def _bytes_inside(module: SearchModule, batch: Any) -> dict[tuple[str, str], int]:
    """(choice, label) -> bytes that the modules of this label save in a step of all candidates."""
    kept: dict[tuple[str, str], dict[int, int]] = {}
    inside: list[Any] = []
    there = {_storage_id(tensor) for tensor in (*module.parameters(), *module.buffers())}

    def pack(tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in there:
            for condition in inside:
                for name, labels in condition.items():
                    for label in labels:
                        kept.setdefault((name, label), {})[_storage_id(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            pack(output)  # the mixture saves the output for the gradient of its op weight
        inside.pop()

    handles = []
    for place in module.supernet.network.modules():
        for condition, part in place.parts() if isinstance(place, ChoiceModule) else ():
            handles.append(part.register_forward_pre_hook(lambda *_, condition=condition: inside.append(condition)))
            handles.append(part.register_forward_hook(leave))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = _loss(module, batch, _all_candidates(module))
    del result
    for handle in handles:
        handle.remove()
    return {key: sum(storages.values()) for key, storages in kept.items()}


def device_memory(device: torch.device) -> int:
    """The memory of a device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
