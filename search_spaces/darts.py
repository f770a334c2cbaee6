"""The cells of DARTS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

import nas
from nas.supernet.search_space import CellEdge
from search_spaces.blocks import check_sizes
from search_spaces.cells import CELLS, NUM_EDGES, CellSpace, cell_graphs, format_cells, parse_cells
from search_spaces.darts_heads import AuxiliaryHead, Dataset, make_stems
from search_spaces.darts_ops import DERIVABLE, SEARCH_ONLY, edge_ops, factorized_reduce, relu_conv_norm

DARTS_V1 = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])"
)
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


class Darts(CellSpace):
    """A sequence of normal cells and of reduction cells, which halve the image. Each cell chooses its edges and their operations.

    A cell reads the outputs of the two previous cells, states 0 and 1. Each node sums two earlier states, each through an operation, and is
    a further state. The cell's output is the concatenation of its nodes. Cells at one third and two thirds of the depth are reduction
    cells. All cells of a kind share their choices: ``normal.node1`` selects the two states that node 1 sums (such as ``from0`` and
    ``from2``), and ``normal.node1.from2`` selects the operation. ``none`` competes while searching and cannot be derived.

    Node i chooses 2 of i + 2 states, and one of 7 operations for each: (1 * 3 * 6 * 10 * 7^8)^2, about 10^18, architectures.

    Args:
        search_channels: Channels of the first cell while searching.
        search_layers: Number of cells while searching, at least 3.
        channels: Channels of the first cell in retraining.
        layers: Number of cells in retraining, at least 3.
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        num_nodes: Number of nodes of a cell.
        dataset: Stem and auxiliary head: ``"cifar"`` for small images, or ``"imagenet"``, whose stem halves the image three times.
        auxiliary: Add an auxiliary head in retraining. In training mode, the network then returns two tensors.
        drop_path: Probability of dropping an edge at the end of retraining, from 0 to below 1.
        learned_edges: Weight the edges of a node by their own logits while searching (edge normalization of PC-DARTS).

    Raises:
        ValueError: A value out of range, or an unknown dataset.

    Source: Liu et al. 2019, "DARTS: Differentiable Architecture Search", and its code, quark0/darts.

    Deviation: The ImageNet network ends in an average over the whole image. The published network averages over 7 x 7, which is equal for
    images of 224 x 224.
    """

    counting_rule = "node i sums 2 of i + 2 states, each through one of 7 operations; normal times reduction cells"

    def __init__(
        self,
        search_channels: int = 16,
        search_layers: int = 8,
        channels: int = 36,
        layers: int = 20,
        num_classes: int = 10,
        in_channels: int = 3,
        num_nodes: int = 4,
        dataset: Dataset = "cifar",
        auxiliary: bool = True,
        drop_path: float = 0.0,
        learned_edges: bool = False,
    ) -> None:
        check_sizes(
            "Darts",
            search_channels=search_channels,
            channels=channels,
            num_classes=num_classes,
            in_channels=in_channels,
            num_nodes=num_nodes,
        )
        for name, number in {"search_layers": search_layers, "layers": layers}.items():
            if number < 3:
                raise ValueError(
                    f"Darts: {name} must be at least 3, so that there are cells of both kinds, got {number}"
                )
        if dataset not in get_args(Dataset):
            raise ValueError(f"Darts: dataset must be one of {', '.join(get_args(Dataset))}, got {dataset!r}")
        for name, number in {"search_channels": search_channels, "channels": channels}.items():
            if dataset == "imagenet" and number < 2:
                raise ValueError(f"Darts: {name} must be at least 2 for imagenet, got {number}")
        if not 0 <= drop_path < 1:
            raise ValueError(f"Darts: drop_path must be from 0 to below 1, got {drop_path}")
        self.search_channels = search_channels
        self.search_layers = search_layers
        self.channels = channels
        self.layers = layers
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_nodes = num_nodes
        self.dataset = dataset
        self.auxiliary = auxiliary
        self.drop_path = drop_path
        self.learned_edges = learned_edges

    def network(self, stage: str = "search") -> nn.Module:
        """Stem, cells and classifier.

        Shape:
            - input: (B, in_channels, H, W)
            - output: (B, num_classes); in the retrain stage with an auxiliary head, and in training mode, a pair of such tensors
        """
        return _Network(self, stage)

    def edge(self, name: str, channels: int, stride: int, stage: str) -> nn.Module:
        candidates = edge_ops(channels, stride, stage, self.drop_path)
        return nas.choice(name, candidates, shared=True, search_only=SEARCH_ONLY)

    def cells(self, choices: Mapping[str, Any]) -> Mapping[str, Sequence[CellEdge]]:
        return cell_graphs(choices, self.num_nodes, DERIVABLE)

    def parse_genotype(self, text: str) -> nas.Genotype:
        """Parses an architecture in the published notation. The text is data and is never executed.

        Args:
            text: ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...], reduce_concat=range(2, 6))``:
                for each node, two pairs of operation and state, in either order.

        Raises:
            ValueError: The text does not have this form, or describes an architecture that the space does not have.
        """
        return parse_cells(text, self.num_nodes, DERIVABLE, SEARCH_ONLY)

    def format_genotype(self, genotype: nas.Genotype) -> str:
        """Formats a genotype in the published notation, with edges in the order of their states; see :meth:`parse_genotype`.

        Raises:
            ValueError: The genotype does not fit this space.
        """
        return format_cells(genotype.choices, self.num_nodes, DERIVABLE)


class _Network(nn.Module):
    def __init__(self, space: Darts, stage: str) -> None:
        super().__init__()
        retrained = stage == "retrain"
        channels = space.channels if retrained else space.search_channels
        num_cells = space.layers if retrained else space.search_layers
        reductions = (num_cells // 3, 2 * num_cells // 3)
        self.auxiliary_at = reductions[-1]
        self.stem0, self.stem1, wide = make_stems(space.dataset, space.in_channels, channels)
        self.cells = nn.ModuleList()
        self.auxiliary_head: nn.Module | None = None
        before = (wide, wide)
        reduced = space.dataset == "imagenet"
        for i in range(num_cells):
            reduces = i in reductions
            channels *= 2 if reduces else 1
            self.cells.append(_Cell(space, stage, before, channels, reduces=reduces, reduced=reduced))
            before = (before[1], space.num_nodes * channels)
            reduced = reduces
            if retrained and space.auxiliary and i == self.auxiliary_at:
                self.auxiliary_head = AuxiliaryHead(space.dataset, before[1], space.num_classes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before[1], space.num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        s0 = self.stem0(x)
        s1 = self.stem1(s0)
        auxiliary_logits = None
        for i, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1)
            if self.auxiliary_head is not None and i == self.auxiliary_at:
                if self.training:
                    auxiliary_logits = self.auxiliary_head(s1)
        logits: Tensor = self.classifier(self.pool(s1).flatten(1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)


class _Cell(nn.Module):
    """One cell. `before`: channels of its inputs; `reduces`: it halves the image; `reduced`: the previous cell halved the image."""

    def __init__(
        self, space: Darts, stage: str, before: tuple[int, int], channels: int, *, reduces: bool, reduced: bool
    ) -> None:
        super().__init__()
        affine = stage == "retrain"
        adapt = factorized_reduce if reduced else relu_conv_norm
        self.preprocess0 = adapt(before[0], channels, affine=affine)
        self.preprocess1 = relu_conv_norm(before[1], channels, affine=affine)
        self.nodes = nn.ModuleList()
        with nas.scope(CELLS[reduces]):
            for i in range(space.num_nodes):
                edges = {
                    f"from{j}": partial(space.edge, f"node{i}.from{j}", channels, 2 if reduces and j < 2 else 1, stage)
                    for j in range(i + 2)
                }
                self.nodes.append(nas.inputs(f"node{i}", edges, NUM_EDGES, learned=space.learned_edges, shared=True))

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in self.nodes:
            states.append(node(states))
        return torch.cat(states[2:], dim=1)
