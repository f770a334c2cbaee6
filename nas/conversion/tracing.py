"""Follows channels through a network: the graph of torch.export, run on labels instead of numbers."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

import nas
from nas.conversion.labels import Labels
from nas.io.errors import first_line


class Side(NamedTuple):
    """A dimension of a tensor of a layer: the channels that the layer reads, or those that it makes."""

    path: str
    tensor: str
    dim: int


class NormRead(NamedTuple):
    """A normalization over channels in a layer: the layer's path, the labels of the input, and whether the mean is subtracted."""

    path: str
    labels: Tensor
    is_centered: bool


class Trace:
    """What is known of a network's channels.

    Attributes:
        labels: Makes and joins labels.
        axes: Name of a parameter or buffer -> dimension -> the labels along it.
        elements: Name of a parameter or buffer that is read element by element -> the labels of its elements.
        produced: Tensors and dimensions that make new channels.
        reads: Tensors that read channels.
        norms: Normalizations over channels.
        followers: Pairs of labels of elements, and of the channels that they meet, on one shape.
        constants: Labels of channels that meet a tensor without channels, and the dimensions in which it is as long as they are.
        heads: Labels of channels that attention multiplies.
        rectangles: Labels that must stay a product of two dimensions.
        splits: Equal parts of labels.
        frozen: Labels of channels that are always kept, and the reason.
        integers: Node -> its integers, if they do not depend on inputs.
    """

    def __init__(self, program: ExportedProgram) -> None:
        """Nothing is known yet."""
        self.labels = Labels()
        self.axes: dict[str, dict[int, Tensor]] = {}
        self.elements: dict[str, Tensor] = {}
        self.produced: list[Side] = []
        self.reads: list[Side] = []
        self.norms: list[NormRead] = []
        self.followers: list[tuple[Tensor, Tensor]] = []
        self.constants: list[tuple[Tensor, list[int]]] = []
        self.heads: list[Tensor] = []
        self.rectangles: list[Tensor] = []
        self.splits: list[list[Tensor]] = []
        self.frozen: list[tuple[Tensor, str]] = []
        self.integers: dict[Node, Tensor] = {}
        self.names: dict[str, str] = {}  # placeholder -> parameter or buffer
        signature = program.graph_signature
        for mapping in (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        ):
            self.names |= mapping
        self.tensors: Mapping[str, Tensor] = {**dict(program.state_dict), **program.constants}

    def freeze(self, labels: Any, reason: str) -> None:
        """These channels are always kept; `labels` may be a list."""
        for item in labels if isinstance(labels, (list, tuple)) else [labels]:
            if item is not None:
                self.labels.freeze(item)
                self.frozen.append((item, reason))

    def tensor_of(self, item: Any) -> str | None:
        """The name of the parameter or buffer that a node is; None for others."""
        return self.names.get(item.name) if isinstance(item, Node) and item.op == "placeholder" else None

    def integers_of(self, item: Any) -> Tensor | None:
        """The integers (or truth values) of a node, if they do not depend on inputs."""
        if (tensor := self.tensor_of(item)) is not None and not self.tensors[tensor].is_floating_point():
            return self.tensors[tensor]
        return self.integers.get(item)

    def axis(self, tensor: str, dim: int) -> Tensor:
        """The labels along a dimension of a parameter or buffer."""
        dims = self.axes.setdefault(tensor, {})
        if dim not in dims:
            dims[dim] = self.labels.new(self.tensors[tensor].shape[dim])
        return dims[dim]

    def element_labels(self, tensor: str) -> Tensor:
        """Labels of all elements of a parameter or buffer."""
        if tensor not in self.elements:
            self.elements[tensor] = self.labels.new_elements(*self.tensors[tensor].shape)
        return self.elements[tensor]


Rule = Callable[[Trace, Node, list[Any]], Any]
"""What an operation does with labels, from the trace, the node, and the labels of its arguments."""


def exported(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExportedProgram:
    """The graph of a model in eval mode.

    Raises:
        ValueError: The model cannot be traced; the message has the reason.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the export, which nobody keeps
            return torch.export.export(model, args, dict(kwargs), strict=False)
    except Exception as error:
        raise ValueError(
            f"nas.convert cannot trace {type(model).__name__}{_place(error)}: {first_line(error)}"
        ) from error


def _place(error: Exception) -> str:
    """The line of the model's own code in which an error was raised, for a message."""
    inner = [str(Path(package.__file__ or "").parent) for package in (torch, nas)]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*inner, "<"))]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


class Caller(NamedTuple):
    """A module in whose call an operation runs: its path, and the name of its class."""

    path: str
    kind: str


def callers_of(node: Node) -> list[Caller]:
    """The modules in whose calls an operation runs, the innermost last; never empty."""
    stack = (node.meta.get("nn_module_stack") or {"": ("", "")}).values()
    return [
        Caller(path.removeprefix("L['self']").lstrip("."), kind if isinstance(kind, str) else kind.__name__)
        for path, kind in stack
    ]


def name_of(node: Node) -> str:
    """The name of an operation of torch, such as ``add_``; empty for another function."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.split("::")[-1] if schema is not None else ""


def shape_of(node: Node) -> torch.Size:
    """The shape of a node's result."""
    shape: torch.Size = node.meta["val"].shape
    return shape
