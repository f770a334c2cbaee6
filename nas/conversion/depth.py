"""Residual blocks of a traced network, which can be dropped."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from nas.conversion.tracing import callers_of, name_of
from nas.supernet.candidates import Skip
from nas.supernet.gate import DROP, KEEP
from nas.supernet.mixed_op import MixedOp

_UNCHANGED = frozenset("relu relu_ dropout dropout_ clone contiguous alias to _to_copy detach".split())


def residual_blocks(program: ExportedProgram) -> list[str]:
    """The paths of the innermost modules whose output is their input plus something of its shape."""
    inside: dict[str, list[Node]] = {}
    for node in program.graph.nodes:
        for path in dict.fromkeys(caller.path for caller in callers_of(node)):
            inside.setdefault(path, []).append(node)
    found = [path for path, nodes in inside.items() if path and _is_residual(nodes)]
    return [path for path in found if not any(other.startswith(f"{path}.") for other in found)]


def _is_residual(nodes: list[Node]) -> bool:
    own = set(nodes)
    results = [node for node in nodes if any(user not in own for user in node.users)]
    return len(results) == 1 and _adds_input(results[0], own, added=False)


def _adds_input(node: Node, own: set[Node], *, added: bool) -> bool:
    """Whether a result is a sum of which one term is an input of the block."""
    if node not in own:
        return added and node.op != "placeholder"
    name = name_of(node)
    if name in ("add", "add_"):
        terms = [term for term in node.args[:2] if isinstance(term, Node) and _shape(term) == _shape(node)]
        return any(_adds_input(term, own, added=True) for term in terms)
    return name in _UNCHANGED and isinstance(node.args[0], Node) and _adds_input(node.args[0], own, added=added)


def _shape(node: Node) -> object:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else None


def gate(network: nn.Module, paths: Sequence[str]) -> None:
    """Puts a choice between a block and its input in the place of each block."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        owner = network.get_submodule(parent)
        block = getattr(owner, name)
        setattr(owner, name, MixedOp(path, {DROP: Skip(), KEEP: block}))
