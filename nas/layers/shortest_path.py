"""Shortest paths by gradient: a soft minimum over all paths, and relaxed samples of paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor, nn

from nas.layers.base import check
from nas.relaxations.base import Tau, at_least_float32, checked_tau, one_hot
from nas.supernet.sampling import present_sampler, sample

FOUR_NEIGHBORS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Steps (down, right) to the neighbors of a cell."""


class Path(NamedTuple):
    """A path from the source to the target, hard or relaxed.

    Attributes:
        edges: (..., E), how often the path takes each edge: a probability where no edge can be taken twice; 0 or 1 in eval mode.
        cost: (...), in units of the costs: the soft minimum, the cost of the sampled path inside a supernet, the lowest cost in eval mode.
    """

    edges: Tensor
    cost: Tensor


class ShortestPath(nn.Module):
    """The cheapest path of a directed graph, differentiable in the costs of its edges.

    Paths of at most ``max_edges`` edges have probabilities proportional to ``exp(-cost / tau)``. The recursion from the target is exact:
    the soft minimum of a node is ``-tau * logsumexp(-(cost + soft minimum of the end) / tau)`` over its edges.

    - In training outside of a supernet, ``cost`` is the soft minimum ``-tau * log(sum of exp(-cost / tau))`` over paths, and ``edges`` is
      its gradient: the probability of each edge. The negative log-likelihood of a given path is ``(its cost - cost) / tau``.
    - In training inside a supernet, the edges of one path are drawn by :func:`nas.sample`. With a hard relaxation, the path is an exact
      sample of the distribution above. The supernet's tau only relaxes the draw.
    - In eval mode, the path is the cheapest; in a tie, the one whose edges come first.

    Negative costs are allowed in graphs without a cycle. In other graphs, the sum is over walks, which may enter a node twice.

    Args:
        edges: (start, end) of each edge, numbers of nodes from 0.
        source: First node of all paths.
        target: Last node of all paths.
        tau: Temperature of the soft minimum in units of the costs, above 0. It may be set at any time.
        max_edges: Limit on the edges of a path. None: the longest path of a graph without a cycle; else the number of nodes less 1, so that
            all paths without a cycle are included. Time and memory grow in proportion.

    Shape:
        - costs: (..., E), in the order of `edges`
        - edges of the result: (..., E); cost of the result: (...); both float32 (float64 for float64 costs)

    Raises:
        ValueError: There is no edge, a node is negative, no path of so few edges leads from the source to the target, the costs have
            another size, or, on a CPU, they hold NaN or infinity, overflow, or are negative in a graph with a cycle.

    Source: Mensch and Blondel 2018, "Differentiable Dynamic Programming for Structured Prediction and Attention"; Ziebart et al. 2008,
    "Maximum Entropy Inverse Reinforcement Learning".
    """

    def __init__(
        self,
        edges: Sequence[Sequence[int]] | Tensor,
        source: int,
        target: int,
        tau: Tau = 1.0,
        max_edges: int | None = None,
    ) -> None:
        super().__init__()
        pairs = np.asarray(edges.tolist() if isinstance(edges, Tensor) else edges, dtype=np.int64).reshape(-1, 2)
        if not len(pairs):
            raise ValueError("ShortestPath: the graph has no edges")
        if min(source, target, pairs.min()) < 0:
            raise ValueError("ShortestPath: numbers of nodes must be at least 0")
        graph = _Graph(pairs, source, target)
        self.is_acyclic = graph.is_acyclic
        self.max_edges = graph.longest_path() if max_edges is None else max_edges
        if not graph.hops[source] <= self.max_edges:
            limit = "" if max_edges is None else f" of at most {max_edges} edges"
            raise ValueError(f"ShortestPath: no path{limit} leads from node {source} to node {target}")
        self.source, self.target, self.tau = source, target, tau
        table, exists = graph.edges_of_nodes()
        self.edge_of: Tensor  # (N, M), edges that leave each node, padded by edge 0
        self.register_buffer("edge_of", torch.from_numpy(table), persistent=False)
        self.end_of: Tensor  # (N, M), the nodes that they enter
        self.register_buffer("end_of", torch.from_numpy(pairs[table, 1]), persistent=False)
        self.hops_of: Tensor  # (N, M), the fewest edges from these nodes to the target; infinity where there is no edge
        hops = np.where(exists, graph.hops[pairs[table, 1]], np.inf)
        self.register_buffer("hops_of", torch.from_numpy(hops), persistent=False)
        self.num_edges = len(pairs)

    def forward(self, costs: Tensor) -> Path:
        """Finds or draws paths; see the class for shapes."""
        if costs.dim() < 1 or costs.shape[-1] != self.num_edges:
            raise ValueError(f"ShortestPath: costs must have shape (..., {self.num_edges}), got {tuple(costs.shape)}")
        costs = at_least_float32(costs)
        check(costs.isfinite(), "ShortestPath: costs hold NaN or infinity")
        if not self.is_acyclic:
            check(costs >= 0, "ShortestPath: costs must be at least 0 in a graph with a cycle")
        value, weights = self._recursion(costs)
        check(value.isfinite(), "ShortestPath: the cost of a path overflows; scale the costs")
        edges = self._propagate(weights, costs)
        is_sampled = self.training and present_sampler() is not None
        return Path(edges, (edges * costs).sum(-1) if is_sampled else value)

    def _recursion(self, costs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The value of the source, and the weights (..., N, M) of the edges with 1, 2, ... ``max_edges`` edges left; 0 where none exists.

        Source: Bellman 1958, "On a routing problem".
        """
        tau = checked_tau(self.tau)
        value, price = costs.new_zeros(*costs.shape[:-1], len(self.edge_of)), costs[..., self.edge_of]
        every = []
        for num_left in range(1, self.max_edges + 1):
            exists = self.hops_of < num_left
            mask = exists | ~exists.any(-1, keepdim=True)  # softmax needs one edge of each node, if only of weight 0
            total = (price + value[..., self.end_of]).masked_fill(~exists, 0.0)
            if self.training:
                logits = (-total / tau).masked_fill(~mask, -torch.inf)
                value = -tau * logits.logsumexp(-1)
                weights = logits.softmax(-1) if present_sampler() is None else sample(logits, mask)
            else:
                value, index = total.masked_fill(~mask, torch.inf).min(-1)
                weights = one_hot(index[..., None], total)
            value = value.masked_fill(~exists.any(-1), 0.0)
            every.append(weights * exists)
        return value[..., self.source], every

    def _propagate(self, weights: list[Tensor], costs: Tensor) -> Tensor:
        """How often the path that follows `weights` takes each edge, (..., E)."""
        present = costs.new_zeros(*costs.shape[:-1], len(self.edge_of))
        present[..., self.source] = 1.0
        edges = torch.zeros_like(costs)
        for step in reversed(weights):
            taken = (present[..., None] * step).flatten(-2)
            edges = edges.index_add(-1, self.edge_of.flatten(), taken)
            present = torch.zeros_like(present).index_add(-1, self.end_of.flatten(), taken)
        return edges


class _Graph:
    """A directed graph, without the edges that leave the target: no path has them.

    Attributes:
        hops: (N,), the fewest edges from each node to the target; infinity where there is no path.
    """

    def __init__(self, pairs: np.ndarray, source: int, target: int) -> None:
        self.num_nodes = int(max(source, target, pairs.max())) + 1
        self.pairs, self.source = pairs, source
        self.inner = pairs[:, 0] != target
        start, end = pairs[self.inner].T
        self.hops: np.ndarray = dijkstra(self._matrix(end, start), indices=target)

    @property
    def is_acyclic(self) -> bool:
        """Whether no path to the target enters a node twice."""
        start, end = self._useful()
        components, _ = connected_components(self._matrix(start, end), connection="strong")
        return bool(components == self.num_nodes and (start != end).all())

    def longest_path(self) -> int:
        """Edges of the longest path from the source; the number of nodes less 1 in a graph with a cycle."""
        if not self.is_acyclic:
            return self.num_nodes - 1
        start, end = self._useful()
        reached, length = np.zeros(self.num_nodes, dtype=bool), -1
        reached[self.source] = True
        while reached.any():
            following = end[reached[start]]
            reached = np.zeros_like(reached)
            reached[following] = True
            length += 1
        return length

    def edges_of_nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """The edges that leave each node, padded by edge 0 to the largest number, and which of them exist, both (N, M)."""
        rows = [np.flatnonzero(self.inner & (self.pairs[:, 0] == node)) for node in range(self.num_nodes)]
        width = max(1, *map(len, rows))
        exists = np.array([[i < len(row) for i in range(width)] for row in rows])
        table = np.zeros_like(exists, dtype=np.int64)
        table[exists] = np.concatenate(rows)
        return table, exists

    def _useful(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts and ends of the edges from which the target can be reached."""
        start, end = self.pairs[self.inner & np.isfinite(self.hops[self.pairs[:, 1]])].T
        return start, end

    def _matrix(self, start: np.ndarray, end: np.ndarray) -> csr_matrix:
        """Length 1 for each edge, also where two edges have the same ends."""
        matrix = csr_matrix((np.ones(len(start)), (start, end)), shape=(self.num_nodes, self.num_nodes))
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix


def grid_edges(height: int, width: int, steps: Sequence[tuple[int, int]] = FOUR_NEIGHBORS) -> Tensor:
    """The edges of a grid whose cells are numbered row by row.

    Args:
        height: Rows, at least 1.
        width: Columns, at least 1.
        steps: (down, right) of each step. Steps down and to the right alone give a graph without a cycle; with the diagonal step, its paths
            are the alignments of dynamic time warping.

    Shape:
        - result: (E, 2) int64, start and end, ordered by start and then by step

    Raises:
        ValueError: A size is below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"grid_edges: height and width must be at least 1, got {height} and {width}")
    cells = [(row, column) for row in range(height) for column in range(width)]
    return torch.tensor(
        [
            (row * width + column, (row + down) * width + column + right)
            for row, column in cells
            for down, right in steps
            if 0 <= row + down < height and 0 <= column + right < width
        ],
        dtype=torch.int64,
    ).view(-1, 2)
