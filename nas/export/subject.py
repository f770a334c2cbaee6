"""The subject of an export: a plain network and the facts about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.genotype import Genotype
from nas.supernet.search_space import CellEdge

BATCHES = (1, 2, 7)
"""Batch sizes of the comparison between formats and network."""


@dataclass(frozen=True)
class Subject:
    """A plain network and the facts about it.

    Attributes:
        network: In eval mode, on the CPU.
        genotype: Its architecture.
        inputs: Tensors of as many samples as the largest of `batches`.
        about: Plain values: origin, task, data, accuracy; the export adds costs.
        folded: Pairs (layer, batch norm) of folded modules.
        unparametrized: Places (module, tensor) of weights that were computed and are plain now.
        cells: The graphs of its cells; see :meth:`nas.SearchSpace.cells`.
        batches: Batch sizes of the comparison; one size: the graph formats take this size only.
        opset: Version of the ONNX operators; None: that of the exporter.
        tokenizer: The tokenizer of a Hugging Face folder; None: that of the parent.
    """

    network: nn.Module
    genotype: Genotype
    inputs: tuple[Tensor, ...]
    about: Mapping[str, Any]
    folded: Sequence[tuple[str, str]] = ()
    unparametrized: Sequence[tuple[str, str]] = ()
    cells: Mapping[str, Sequence[CellEdge]] = field(default_factory=dict)
    batches: Sequence[int] = BATCHES
    opset: int | None = None
    tokenizer: Any = None

    def of_batch(self, size: int) -> Subject:
        """The same subject for one batch size."""
        described = {**self.about["input"], "shapes": [[size, *shape[1:]] for shape in self.about["input"]["shapes"]]}
        return replace(
            self,
            inputs=tuple(_repeated(tensor, size) for tensor in self.inputs),
            about={**self.about, "input": described},
            batches=(size,),
        )


def example_inputs(args: Sequence[Any]) -> tuple[Tensor, ...]:
    """Samples for the comparison, repeated if the batch `args` has too few; a ValueError if an input is not a tensor."""
    result = []
    for i, item in enumerate(args):
        if not isinstance(item, Tensor):
            raise ValueError(f"input {i} is a {type(item).__name__}; only networks that take tensors can be exported")
        result.append(_repeated(item.detach().cpu(), max(BATCHES)))
    return tuple(result)


def _repeated(tensor: Tensor, size: int) -> Tensor:
    return torch.cat([tensor] * -(-size // len(tensor)))[:size].contiguous()


def examples(network: nn.Module, inputs: Sequence[Tensor], batches: Sequence[int] = BATCHES) -> dict[str, Tensor]:
    """Inputs, and the outputs of the network at each batch size, with names for a safetensors file."""
    result = {f"input.{i}": tensor for i, tensor in enumerate(inputs)}
    for size in batches:
        # a clone: sums may depend on the alignment of memory
        outputs = run(network, [tensor[:size].clone() for tensor in inputs])
        result |= {f"output.{size}.{i}": output for i, output in enumerate(outputs)}
    return result


@torch.no_grad()
def run(network: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Outputs of a network as a flat list of new tensors; one thread fixes the order of sums. A ValueError for other outputs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outputs = tree_leaves(network(*inputs))
    finally:
        torch.set_num_threads(threads)
    for output in outputs:
        if not isinstance(output, Tensor):
            raise ValueError(f"the network gives a {type(output).__name__}; only tensors can be exported")
    return [output.detach().clone().contiguous() for output in outputs]


def check_same(
    changed: nn.Module,
    network: nn.Module,
    inputs: Sequence[Tensor],
    tolerance: float,
    change: str,
    *,
    floor: float = 1.0,
) -> None:
    """Raises a ValueError if the outputs differ by more than the tolerance, relative to the largest output or to `floor`."""
    before, after = (run(net, [tensor.clone() for tensor in inputs]) for net in (network, changed))
    difference, scale = largest_difference(after, before, floor)
    if not difference <= tolerance * scale:
        raise ValueError(f"{change} changes outputs by {difference:.1e}, more than {tolerance} of {scale:.3g}")


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor], floor: float = 1.0) -> tuple[float, float]:
    """The largest difference, and the largest expected value, at least `floor`."""
    pairs = zip(found, expected, strict=True)
    difference = max(float((one.double() - other.double()).abs().max()) for one, other in pairs)
    return difference, max(floor, *[float(tensor.double().abs().max()) for tensor in expected])
