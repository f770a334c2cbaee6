"""What is exported: a plain network, and what is known about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.genotype import Genotype
from nas.supernet.search_space import CellEdge

BATCHES = (1, 2, 7)
"""Batch sizes at which every format is compared with the network."""


@dataclass(frozen=True)
class Subject:
    """A plain network and what is known about it.

    Attributes:
        network: In eval mode, on the CPU.
        genotype: Its architecture.
        inputs: Tensors of as many samples as the largest of `BATCHES`.
        about: Plain values: where it comes from, its task, data and accuracy; what it costs is added.
        folded: Pairs of modules (layer, batch norm) that were made one.
        unparametrized: Places (module, tensor) where something computed a weight that is plain now.
        cells: The graphs of its cells; see :meth:`nas.SearchSpace.cells`.
    """

    network: nn.Module
    genotype: Genotype
    inputs: tuple[Tensor, ...]
    about: Mapping[str, Any]
    folded: Sequence[tuple[str, str]] = ()
    unparametrized: Sequence[tuple[str, str]] = ()
    cells: Mapping[str, Sequence[CellEdge]] = field(default_factory=dict)


def example_inputs(args: Sequence[Any]) -> tuple[Tensor, ...]:
    """Samples for the comparison, repeated where there are too few.

    Args:
        args: Inputs of a network, one batch.

    Raises:
        ValueError: An input is not a tensor.
    """
    result = []
    for i, item in enumerate(args):
        if not isinstance(item, Tensor):
            raise ValueError(f"input {i} is a {type(item).__name__}; only networks that take tensors can be exported")
        times = -(-max(BATCHES) // len(item))
        result.append(torch.cat([item.detach().cpu()] * times)[: max(BATCHES)].contiguous())
    return tuple(result)


def examples(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Inputs, and what the network makes of them at every batch size, under names for a safetensors file.

    Raises:
        ValueError: An output is not a tensor, or samples of a batch are not independent of each other.
    """
    result = {f"input.{i}": tensor for i, tensor in enumerate(inputs)}
    for size in BATCHES:
        outputs = run(network, [tensor[:size].clone() for tensor in inputs])  # sums may depend on how memory is aligned
        result |= {f"output.{size}.{i}": output for i, output in enumerate(outputs)}
    return result


@torch.no_grad()
def run(network: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Outputs of a network as a flat list of tensors of their own; one thread, so that sums are always taken in one order.

    Raises:
        ValueError: An output is not a tensor.
    """
    with one_thread():
        outputs = tree_leaves(network(*inputs))
    for output in outputs:
        if not isinstance(output, Tensor):
            raise ValueError(f"the network gives a {type(output).__name__}; only tensors can be exported")
    return [output.detach().clone().contiguous() for output in outputs]


def check_same(
    changed: nn.Module, network: nn.Module, inputs: Sequence[Tensor], tolerance: float, what: str, *, floor: float = 1.0
) -> None:
    """Compares a changed copy with its original.

    Raises:
        ValueError: Outputs differ by more than the tolerance, as a part of the largest output or of `floor`; `what` was done to the copy.
    """
    before, after = (run(net, [tensor.clone() for tensor in inputs]) for net in (network, changed))
    difference, scale = largest_difference(after, before, floor)
    if not difference <= tolerance * scale:
        raise ValueError(f"{what} changes outputs by {difference:.1e}, more than {tolerance} of {scale:.3g}")


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor], floor: float = 1.0) -> tuple[float, float]:
    """The largest difference of any value, and the largest value that is expected, at least `floor`."""
    pairs = zip(found, expected, strict=True)
    difference = max(float((one.double() - other.double()).abs().max()) for one, other in pairs)
    return difference, max(floor, *[float(tensor.double().abs().max()) for tensor in expected])


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
