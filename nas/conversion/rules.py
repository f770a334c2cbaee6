"""What each operation of torch does with the labels of channels."""

from __future__ import annotations

import operator
import re
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_map_only

from nas.conversion.contractions import RULES
from nas.conversion.labels import sharper, varies, varying
from nas.conversion.tracing import NormRead, Trace, callers_of, name_of, shape_of

_REDUCTIONS = frozenset(
    "mean sum amax amin var std prod norm linalg_vector_norm logsumexp softmax _softmax log_softmax cumsum".split()
)
_SPATIAL = (
    "max_pool avg_pool adaptive_avg_pool adaptive_max_pool upsample interpolate _adaptive pad constant_pad reflection_pad replication_pad"
).split()
_POINTWISE = frozenset(
    "where hardswish hardsigmoid hardtanh relu6 elu celu selu leaky_relu mish softplus threshold rsub masked_fill addcmul lerp".split()
)  # those of them that torch does not tag as pointwise
_COPIES = frozenset(
    (
        "reshape _unsafe_view cat stack repeat repeat_interleave roll flip pixel_shuffle pixel_unshuffle channel_shuffle "
        "index index_select gather take_along_dim tile alias detach lift_fresh_copy split_with_sizes"
    ).split()
)

_SAME = frozenset(
    "to _to_copy dropout contiguous clone zeros_like ones_like full_like empty_like rand_like randn_like".split()
)


def apply(known: Trace, node: Node, values: dict[Node, Any]) -> Any:
    """The labels of the result of an operation; None if it has no channels."""
    if node.target is operator.getitem:
        source = values[node.args[0]]  # type: ignore[index]
        index: Any = node.args[1]
        return source[index] if isinstance(source, (list, tuple)) else source
    name = name_of(node).rstrip("_")
    if not name or not isinstance(node.meta.get("val"), (Tensor, list, tuple)):
        return None
    args = [tree_map_only(Node, lambda source: values[source], argument) for argument in node.args]
    labelled = [source for source in node.all_input_nodes if isinstance(values[source], (Tensor, list, tuple))]
    value = node.meta["val"]
    if not labelled and isinstance(value, Tensor) and not value.is_floating_point():
        _folded(known, node)
        return None
    rule = RULES.get(name)
    try:
        if rule is not None:
            return rule(known, node, args)
        if torch.Tag.pointwise in node.target.tags or name in _POINTWISE:  # type: ignore[union-attr]
            return _pointwise(known, node, args, values)
        if not labelled and not any(known.tensor_of(source) for source in node.all_input_nodes):
            return None
        if name in _REDUCTIONS:
            return _reduced(known, node, args) if labelled else None
        if any(name.startswith(start) for start in _SPATIAL):
            return _spatial(known, node, args)
        if name.startswith("new_"):
            return None  # only the type of the tensor is read
        if name in _COPIES | _SAME or any(r.alias_info is not None for r in node.target._schema.returns):  # type: ignore[union-attr]
            return _layout(known, node, values)
    except (RuntimeError, IndexError, TypeError, ValueError, KeyError):
        pass  # an unusual form of the operation
    reason = f"nas.convert does not know what {node.target} does with channels"
    for source in node.all_input_nodes:
        known.freeze(values[source], reason)
        for labels in known.axes.get(known.tensor_of(source) or "", {}).values():
            known.freeze(labels, reason)
    return None


def _folded(known: Trace, node: Node) -> None:
    """Computes integers that do not depend on inputs: the indices of a table of positions, for example."""
    if all(known.integers_of(source) is not None for source in node.all_input_nodes):
        args, kwargs = (tree_map_only(Node, known.integers_of, item) for item in (node.args, dict(node.kwargs)))
        try:
            known.integers[node] = node.target(*args, **{**kwargs, "device": "cpu"} if "device" in kwargs else kwargs)  # type: ignore[operator]
        except (RuntimeError, IndexError, TypeError, ValueError):
            pass  # an unusual form of the operation


def _pointwise(known: Trace, node: Node, args: list[Any], values: dict[Node, Any]) -> Any:
    """Labels at equal positions are one. Tensors without channels must not be as long as channels that are cut."""
    shape = shape_of(node)
    channels: list[Tensor] = []
    elements: list[Tensor] = []
    others: list[torch.Size] = []
    for source in node.all_input_nodes:
        labels = values[source]
        if labels is None and (tensor := known.tensor_of(source)) and known.tensors[tensor].is_floating_point():
            labels = known.element_labels(tensor)
        if isinstance(labels, Tensor):
            (elements if known.labels.are_elements(labels) else channels).append(labels.expand(shape))
        elif isinstance(source.meta.get("val"), Tensor):
            others.append(source.meta["val"].shape)
    if not channels:
        for other in elements[1:]:
            known.followers.append((other, elements[0]))
        return elements[0] if elements else None
    found = channels[0]
    for other in channels[1:]:
        known.labels.join(found, other)
        found = sharper(found, other)
    known.followers += [(labels, found) for labels in elements]
    for size in others:
        if dims := [dim for dim in range(-len(size), 0) if size[dim] > 1 and varies(found, dim)]:
            known.constants.append((found, dims))
    return found


def _layout(known: Trace, node: Node, values: dict[Node, Any]) -> Any:
    """Runs the operation on labels. Elements without labels are like their neighbors, or kept."""
    shapes = [labels for labels in map(values.get, node.all_input_nodes) if isinstance(labels, Tensor)]

    def labels_of(source: Node) -> Any:
        if values[source] is not None:
            return values[source]
        value = source.meta.get("val")
        if not isinstance(value, Tensor):
            return value
        if (tensor := known.tensor_of(source)) is not None and value.is_floating_point():
            return known.element_labels(tensor)
        if value.is_floating_point() and shapes:
            return torch.zeros(1, dtype=torch.int64).expand(value.shape)
        if (integers := known.integers_of(source)) is not None:
            return integers
        return torch.zeros(value.shape, dtype=value.dtype)

    args, kwargs = (tree_map_only(Node, labels_of, item) for item in (node.args, node.kwargs))
    name = name_of(node)
    if name in _SAME:
        return args[0]
    if name in ("index", "index_select", "gather", "take_along_dim"):
        args = (_mixed_where_unknown(known, node, args[0]), *args[1:])
    if name in ("view", "_unsafe_view"):  # a layout that labels need not have
        return _reshaped(known, torch.reshape(*args))
    result = node.target(*args, **kwargs)  # type: ignore[operator]
    if name in ("reshape", "unflatten"):
        return _reshaped(known, result)
    if isinstance(result, (list, tuple)):
        if len({part.shape for part in result}) == 1:  # a smaller network splits into equal parts, too
            known.splits.append(list(result))
        return list(result)
    return result


def _reshaped(known: Trace, labels: Tensor) -> Tensor:
    if len(varying(labels)) > 1:
        known.rectangles.append(labels)
    return labels


def _mixed_where_unknown(known: Trace, node: Node, labels: Tensor) -> Tensor:
    """Channels are one along a dimension that is indexed by integers that depend on inputs."""
    if name_of(node) == "index":
        indices: Any = node.args[1]
        unknown = [dim for dim, index in enumerate(indices) if index is not None and known.integers_of(index) is None]
    else:
        unknown = [node.args[1]] if known.integers_of(node.args[2]) is None else []  # type: ignore[list-item]
    return known.labels.join_along(labels, unknown).expand(labels.shape) if unknown else labels


def _reduced(known: Trace, node: Node, args: list[Any]) -> Any:
    """Channels that are reduced to one number are one."""
    labels, dims = args[0], _argument(node, "dim")
    dims = list(range(labels.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    path, kind = callers_of(node)[-1]
    if re.search("LayerNorm|RMS", kind) and dims in ([-1], [labels.dim() - 1]) and varies(labels, -1):
        known.norms.append(NormRead(path, labels, "Layer" in kind))
        return None
    first = known.labels.join_along(labels, dims)
    shape = shape_of(node)
    if first.dim() != len(shape):
        first = first.squeeze(tuple(d % labels.dim() for d in dims))
    return first.expand(shape)


def _argument(node: Node, name: str) -> Any:
    """The value of an argument of an operation, or its default."""
    for i, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == name:
            return node.args[i] if i < len(node.args) else node.kwargs.get(name, argument.default_value)
    return None


def _spatial(known: Trace, node: Node, args: list[Any]) -> Any:
    """Pooling, padding and resizing of dimensions along which labels do not change."""
    labels, value = args[0], node.meta["val"]
    shape = value.shape if isinstance(value, Tensor) else value[0].shape
    for dim in range(labels.dim()):
        if labels.shape[dim] != shape[dim]:
            if varies(labels, dim):
                raise ValueError("channels are padded or resized")
            labels = labels.narrow(dim, 0, 1)
    labels = labels.expand(shape)
    return labels if isinstance(value, Tensor) else [labels] * len(value)


def trace(program: ExportedProgram) -> Trace:
    """Follows the channels of all tensors of a program."""
    known = Trace(program)
    values: dict[Node, Any] = {}
    last_use = {source: node for node in program.graph.nodes for source in node.all_input_nodes}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = None
        elif node.op == "output":
            tree_map_only(Node, lambda source: known.freeze(values[source], "it makes an output"), node.args)
        else:
            values[node] = apply(known, node, values)
        for source in node.all_input_nodes:
            if last_use[source] is node and source.op != "placeholder":
                values[source] = None
    return known
