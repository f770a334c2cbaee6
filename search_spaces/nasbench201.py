"""The cells of NAS-Bench-201."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

import nas
from nas.supernet.candidates import Zero
from nas.supernet.search_space import CellEdge
from search_spaces.blocks import check_sizes, ordered_labels

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NUM_NODES = 4
NUM_STAGES = 3
EDGES = tuple((source, node) for node in range(1, NUM_NODES) for source in range(node))
"""(source, node) of each edge, in the order of the published string."""

_NODE = re.compile(r"\|(?:[^|~]+~[^|~]+\|)+")


def edge_name(source: int, node: int) -> str:
    """The name of the choice between two nodes."""
    return f"edge_{source}_{node}"


EDGE_NAMES = tuple(edge_name(*edge) for edge in EDGES)


class NASBench201(nas.SearchSpace):
    """One cell, repeated in three stages of a fixed residual skeleton; the operation on each of its six edges is chosen.

    A cell has four nodes. Node 0 is its input. Each other node applies an operation to every earlier node, and sums the results. The last
    node is the output. All cells share the six choices ``edge_FROM_TO``, so there are 5^6 = 15,625 architectures. Between stages a
    residual block halves the image and doubles the channels.

    Args:
        channels: Channels of the first stage.
        cells_per_stage: Number of cells in each of the three stages.
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        ops: The operations to choose from: at least two of none, skip_connect, nor_conv_1x1, nor_conv_3x3 and avg_pool_3x3.

    Raises:
        ValueError: A value out of range, or an operation that is unknown or named twice.

    Source: Dong and Yang 2020, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", and its code,
    AutoDL-Projects.

    Deviation: Batch norms learn a scale and track statistics in the supernet too, so that derived networks can inherit its weights. The
    published weight-sharing baselines switch both off; the benchmark's own training does not.
    """

    def __init__(
        self,
        channels: int = 16,
        cells_per_stage: int = 5,
        num_classes: int = 10,
        in_channels: int = 3,
        ops: Sequence[str] = OPS,
    ) -> None:
        check_sizes(
            "NASBench201",
            channels=channels,
            cells_per_stage=cells_per_stage,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        for op in ops:
            if op not in OPS:
                raise ValueError(f"NASBench201: ops must be among {', '.join(OPS)}, got {op!r}")
        if len(set(ops)) != len(ops):
            raise ValueError(f"NASBench201: ops must be different, got {list(ops)}")
        self.channels = channels
        self.cells_per_stage = cells_per_stage
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.ops = tuple(ops)

    def network(self, stage: str = "search") -> nn.Module:
        """The skeleton with its cells.

        Shape:
            - input: (B, in_channels, H, W), H and W multiples of 4
            - output: (B, num_classes)
        """
        channels = self.channels
        stem = nn.Sequential(nn.Conv2d(self.in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        cells = nn.Sequential()
        for i in range(NUM_STAGES):
            if i > 0:
                cells.append(_ResidualBlock(channels, 2 * channels))
                channels *= 2
            for _ in range(self.cells_per_stage):
                cells.append(_Cell(channels, self.ops))
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=stem,
            cells=cells,
            lastact=nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(channels, self.num_classes),
        )
        return nn.Sequential(parts)

    def parse_genotype(self, text: str) -> nas.Genotype:
        """Parses an architecture in the benchmark's notation.

        Args:
            text: For each node after the first, joined by ``+``, the operations and their source nodes: ``|nor_conv_3x3~0|`` or
                ``|none~0|skip_connect~1|``. The operations of a node may have any order.

        Raises:
            ValueError: The text does not have this form, or names an operation that is not among `ops`.
        """
        nodes = text.split("+")
        if len(nodes) != NUM_NODES - 1:
            raise _broken(f"expected {NUM_NODES - 1} nodes joined by '+', got {len(nodes)}")
        choices: dict[str, str] = {}
        for node, part in enumerate(nodes, start=1):
            if not _NODE.fullmatch(part):
                raise _broken(f"node {node} must read |operation~source|...|, got {part!r:.80}")
            sources = [str(earlier) for earlier in range(node)]
            for entry in part[1:-1].split("|"):
                op, _, source = entry.partition("~")
                if op not in self.ops:
                    raise _broken(f"node {node}: unknown operation {op!r:.80}; expected one of {', '.join(self.ops)}")
                if source not in sources:
                    raise _broken(f"node {node}: unknown source {source!r:.80}; expected one of {', '.join(sources)}")
                name = edge_name(int(source), node)
                if name in choices:
                    raise _broken(f"node {node} has two operations for node {source}")
                choices[name] = op
        for edge, name in zip(EDGES, EDGE_NAMES, strict=True):
            if name not in choices:
                raise _broken(f"node {edge[1]} has no operation for node {edge[0]}")
        return nas.Genotype({name: choices[name] for name in EDGE_NAMES})

    def format_genotype(self, genotype: nas.Genotype) -> str:
        """Formats a genotype in the benchmark's notation; see :meth:`parse_genotype`.

        Raises:
            ValueError: The genotype does not fit this space.
        """
        nodes = ["|"] * (NUM_NODES - 1)
        for (source, node), op in zip(EDGES, ordered_labels(genotype.choices, EDGE_NAMES, self.ops), strict=True):
            nodes[node - 1] += f"{op}~{source}|"
        return "+".join(nodes)

    def cells(self, choices: Mapping[str, Any]) -> Mapping[str, Sequence[CellEdge]]:
        labels = ordered_labels(choices, EDGE_NAMES, self.ops)
        edges = zip(EDGES, labels, strict=True)
        return {"cell": [CellEdge(str(source), str(node), op) for (source, node), op in edges if op != "none"]}

    def check_genotype(self, choices: Mapping[str, Any]) -> None:
        """Raises ValueError for cells whose output does not depend on their input.

        Args:
            choices: Choice name -> label, for every edge.

        Raises:
            ValueError: The choices do not fit this space, or every path from input to output has the operation none.
        """
        reached = {0}
        for (source, node), op in zip(EDGES, ordered_labels(choices, EDGE_NAMES, self.ops), strict=True):
            if source in reached and op != "none":
                reached.add(node)
        if NUM_NODES - 1 not in reached:
            raise ValueError("genotype: a dead cell: every path from its input to its output has the operation none")


def _broken(reason: str) -> ValueError:
    return ValueError(f"NAS-Bench-201 string: {reason}")


def _relu_conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _factories(channels: int) -> dict[str, Callable[[], nn.Module]]:
    return {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": partial(_relu_conv_norm, channels, channels, 1),
        "nor_conv_3x3": partial(_relu_conv_norm, channels, channels, 3),
        "avg_pool_3x3": partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False),
    }


class _Cell(nn.Module):
    def __init__(self, channels: int, ops: Sequence[str]) -> None:
        super().__init__()
        factories = _factories(channels)
        candidates = {op: factories[op] for op in ops}
        self.edges = nn.ModuleDict({name: nas.choice(name, candidates, shared=True) for name in EDGE_NAMES})

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for node in range(1, NUM_NODES):
            edges = [self.edges[edge_name(source, node)] for source in range(node)]
            nodes.append(nas.mixed_sum(edges, nodes))
        return nodes[-1]


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = _relu_conv_norm(in_channels, out_channels, 3, stride=2)
        self.conv_b = _relu_conv_norm(out_channels, out_channels, 3)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.downsample(x) + self.conv_b(self.conv_a(x))
        return y
