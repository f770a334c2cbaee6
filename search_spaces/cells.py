"""The base class of cell-based spaces, and the published notation of cells."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

import nas
from nas.supernet.search_space import CellEdge

CELLS = ("normal", "reduce")
NUM_EDGES = 2
"""Edges that each node keeps."""


class CellSpace(nas.SearchSpace):
    """Base class of cell-based spaces. A cell is a graph of nodes with a chosen operation on every edge.

    :meth:`network` must make these choices only by ``self.edge(...)``, so that a wrapping space (see
    :class:`search_spaces.partial_channels.PartialChannels`) can change them.

    Attributes:
        learned_edges: Whether the edges of a node have their own logits while searching; no effect if edges are not chosen.
    """

    learned_edges: bool = False

    @abstractmethod
    def edge(self, name: str, channels: int, stride: int, stage: str) -> nn.Module:
        """The choice of one edge's operation.

        Args:
            name: The choice's name inside the current scope.
            channels: Channels of the input and of the output.
            stride: 1, or 2 if the operation halves the image.
            stage: Stage of the network, ``"search"`` or ``"retrain"``.

        Shape:
            - input of the module: (B, channels, H, W)
            - output of the module: (B, channels, ceil(H / stride), ceil(W / stride))
        """


def cell_graphs(choices: Mapping[str, Any], num_nodes: int, ops: Sequence[str]) -> dict[str, list[CellEdge]]:
    """The graphs of a normal and a reduction cell; ``c_{k-2}`` and ``c_{k-1}`` are the two previous cells.

    Raises:
        ValueError: The choices do not describe such cells.
    """
    states = ["c_{k-2}", "c_{k-1}", *map(str, range(num_nodes))]
    rest = dict(choices)
    graphs = {}
    for cell in CELLS:
        edges = []
        for i in range(num_nodes):
            taken = _take_edges(rest, f"{cell}.node{i}", i + 2, ops)
            edges += [CellEdge(states[source], str(i), op) for op, source in taken]
        graphs[cell] = [*edges, *[CellEdge(str(i), "c_{k}", "") for i in range(num_nodes)]]
    return graphs


def parse_cells(text: str, num_nodes: int, ops: Sequence[str], search_only: Sequence[str] = ()) -> nas.Genotype:
    """Parses a normal and a reduction cell in the notation of DARTS. The text is data and is never executed.

    Args:
        text: ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...], reduce_concat=range(2, 6))``: for
            each node, two pairs of operation and state, in either order.
        num_nodes: Number of nodes of a cell; node i reads states 0 to i + 1, and is state i + 2.
        ops: Allowed operations.
        search_only: Operations that exist only while searching.

    Returns:
        Choices ``CELL.nodeI`` (the states that node I sums, except for node 0) and ``CELL.nodeI.fromJ`` (the operation).

    Raises:
        ValueError: The text does not have this form, or describes no valid architecture.
    """
    fields = _fields(text)
    choices: dict[str, str | list[str]] = {}
    for cell in CELLS:
        concat, nodes = _value(fields, f"{cell}_concat"), range(2, 2 + num_nodes)
        if not (concat == nodes if isinstance(concat, range) else concat == list(nodes)):
            raise _broken(f"{cell}_concat must be all nodes, {list(nodes)}, got {concat!r:.80}")
        edges = _value(fields, cell)
        if not isinstance(edges, list) or not all(_is_edge(edge) for edge in edges):
            raise _broken(f"{cell} must be a list of pairs (operation, state), got {edges!r:.80}")
        if len(edges) != NUM_EDGES * num_nodes:
            raise _broken(f"{cell}: expected {NUM_EDGES} edges for each of {num_nodes} nodes, got {len(edges)}")
        for op, _ in edges:
            if op in search_only:
                raise _broken(f"{cell}: {op!r} exists only while searching")
            if op not in ops:
                raise _broken(f"{cell}: unknown operation {op!r:.80}; expected one of {', '.join(ops)}")
        for i in range(num_nodes):
            choices |= _node_choices(f"{cell}.node{i}", i + 2, edges[NUM_EDGES * i : NUM_EDGES * (i + 1)])
    return nas.Genotype(choices)


def format_cells(choices: Mapping[str, Any], num_nodes: int, ops: Sequence[str]) -> str:
    """Formats choices in the notation of DARTS, with edges in the order of their states; see :func:`parse_cells`.

    Raises:
        ValueError: The choices do not describe such cells.
    """
    rest = dict(choices)
    fields = []
    for cell in CELLS:
        edges = [edge for i in range(num_nodes) for edge in _take_edges(rest, f"{cell}.node{i}", i + 2, ops)]
        fields += [f"{cell}={edges}", f"{cell}_concat={list(range(2, 2 + num_nodes))}"]
    if rest:
        raise _broken(f"unknown or inactive choice {next(iter(rest))!r}")
    return f"Genotype({', '.join(fields)})"


def _broken(reason: str) -> ValueError:
    return ValueError(f"DARTS genotype: {reason}")


def _fields(text: str) -> dict[str, ast.expr]:
    names = [name for cell in CELLS for name in (cell, f"{cell}_concat")]
    form = f"Genotype({', '.join(f'{name}=[...]' for name in names)})"
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _broken(f"expected {form}, got text that cannot be parsed: {text!r:.80}") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Genotype" or call.args:
        raise _broken(f"expected {form}, got {text!r:.80}")
    given = [str(keyword.arg) for keyword in call.keywords]
    if sorted(given) != sorted(names):
        raise _broken(f"expected the fields {', '.join(names)}, got {', '.join(given) or 'none':.80}")
    return {str(keyword.arg): keyword.value for keyword in call.keywords}


def _value(fields: Mapping[str, ast.expr], name: str) -> Any:
    """The value of a field: a Python literal, or a range of two numbers."""
    node = fields[name]
    try:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and not node.keywords:
            first, last = (ast.literal_eval(number) for number in node.args)
            return range(first, last)
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise _broken(f"{name} must be a list, or range(first, last), of plain values") from None


def _is_edge(edge: Any) -> bool:
    return isinstance(edge, tuple) and [type(part) for part in edge] == [str, int]


def _node_choices(name: str, num_states: int, edges: Sequence[tuple[str, int]]) -> dict[str, str | list[str]]:
    """The choices of one node."""
    for _, source in edges:
        if not 0 <= source < num_states:
            raise _broken(f"{name} reads states 0 to {num_states - 1}, got {source}")
    ops = {source: op for op, source in edges}
    if len(ops) < NUM_EDGES:
        raise _broken(f"{name} has both edges from state {edges[0][1]}")
    choices: dict[str, str | list[str]] = {}
    if num_states > NUM_EDGES:
        choices[name] = sorted(f"from{source}" for source in ops)
    return choices | {f"{name}.from{source}": ops[source] for source in sorted(ops)}


def _take_edges(choices: dict[str, Any], name: str, num_states: int, ops: Sequence[str]) -> list[tuple[str, int]]:
    """Removes the choices of one node, and returns (operation, state) of its edges, in the order of the states."""
    labels = [f"from{j}" for j in range(num_states)]
    chosen = choices.pop(name, None) if num_states > NUM_EDGES else labels
    sources = [j for j, label in enumerate(labels) if isinstance(chosen, list) and label in chosen]
    if len(sources) != NUM_EDGES or len(chosen) != NUM_EDGES:
        raise _broken(f"choice {name!r} must be a list of {NUM_EDGES} of {', '.join(labels)}, got {chosen!r:.80}")
    edges = []
    for j in sources:
        op = choices.pop(f"{name}.from{j}", None)
        if op not in ops:
            raise _broken(f"choice {name + f'.from{j}'!r} must be one of {', '.join(ops)}, got {op!r:.80}")
        edges.append((op, j))
    return edges
