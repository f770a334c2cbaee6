"""Operations that mix or normalize channels: linear layers, convolutions, products, attention, norms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.fx import Node

from nas.conversion.labels import sharper, varies, varying
from nas.conversion.tracing import NormRead, Rule, Side, Trace, callers_of, name_of, shape_of


def _parameter(known: Trace, item: Any) -> str:
    """The name of a weight; raises ValueError for a weight that is computed."""
    if (tensor := known.tensor_of(item)) is None:
        raise ValueError("the weight is computed")
    return tensor


def _layer(known: Trace, node: Node, x: Tensor | None, weight: Any, bias: Any, into: int, out: int) -> Tensor:
    """The channels that a layer makes. The channels that it reads are the last dimension of `x`; None: an input of the network."""
    tensor, path = _parameter(known, weight), callers_of(node)[-1].path
    if x is None:
        known.freeze(known.axis(tensor, into), "it reads an input")
    else:
        known.labels.join(x, known.axis(tensor, into))
    known.reads.append(Side(path, tensor, into))
    known.produced.append(Side(path, tensor, out))
    return _biased(known, known.axis(tensor, out), bias)


def _biased(known: Trace, made: Tensor, bias: Any) -> Tensor:
    if (tensor := known.tensor_of(bias)) is not None:
        known.labels.join(known.axis(tensor, 0), made)
    return made


def _linear(known: Trace, node: Node, args: list[Any]) -> Any:
    return _multiplied(known, node, args[0], node.args[1], node.args[2] if len(node.args) > 2 else None)


def _addmm(known: Trace, node: Node, args: list[Any]) -> Any:
    return _multiplied(known, node, args[1], node.args[2], node.args[0], into=0)


def _multiplied(known: Trace, node: Node, x: Tensor | None, weight: Any, bias: Any = None, into: int = 1) -> Tensor:
    if x is not None and not varies(x, -1) and varying(x):  # the layer mixes other things than channels
        _parameter(known, weight)
        return x.narrow(-1, 0, 1).expand(shape_of(node))
    return _layer(known, node, x, weight, bias, into, 1 - into).expand(shape_of(node))


def _conv(known: Trace, node: Node, args: list[Any]) -> Any:
    x, weight, bias = args[0], node.args[1], node.args[2] if len(node.args) > 2 else None
    is_transposed = "transpose" in name_of(node)
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    if x is not None:
        x = x.movedim(1, -1)
    if groups == 1:
        made = _layer(known, node, x, weight, bias, *((0, 1) if is_transposed else (1, 0)))
    else:  # all channels of a convolution group are one unit
        made = known.axis(_parameter(known, weight), 0)
        if is_transposed or x is None:
            raise ValueError("a convolution of groups that is transposed, or reads no channels")
        unit = made.view(groups, -1)[:, :1]
        known.labels.join(made.view(groups, -1), unit)
        known.labels.join(x.unflatten(-1, (groups, -1)), unit)
        _biased(known, made, bias)
    shape = shape_of(node)
    return made.view(-1, *[1] * (len(shape) - 2)).expand(shape)


def _channel_tensors(known: Trace, node: Node, args: list[Any]) -> Any:
    """Batch norm, instance norm, PReLU: tensors with one number for each channel of dimension 1."""
    return _per_channel(known, args[0], node.args[1:])


def _per_channel(known: Trace, x: Tensor | None, tensors: Iterable[Any]) -> Tensor | None:
    for tensor in filter(None, map(known.tensor_of, tensors)):
        if x is not None and known.tensors[tensor].numel() > 1:
            known.labels.join(x.movedim(1, -1), known.axis(tensor, 0))
    return x


def _group_norm(known: Trace, node: Node, args: list[Any]) -> Any:
    x = args[0]
    if x is None:
        return None
    parts = x.movedim(1, -1).unflatten(-1, (args[1], -1))
    known.labels.join(parts, parts[..., :1])
    return _per_channel(known, x, node.args[2:4])


def _layer_norm(known: Trace, node: Node, args: list[Any]) -> Any:
    x = args[0]
    if x is None:
        return None
    if len(args[1]) != 1:
        known.freeze(x, "a norm over several dimensions reads it")
        return x
    for source in node.args[2:4]:
        if (tensor := known.tensor_of(source)) is not None:
            known.labels.join(x, known.axis(tensor, 0))
    if varies(x, -1):
        known.norms.append(NormRead(callers_of(node)[-1].path, x, name_of(node) == "layer_norm"))
    return x


def _embedding(known: Trace, node: Node, args: list[Any]) -> Any:
    weight = _parameter(known, node.args[0])
    known.produced.append(Side(callers_of(node)[-1].path, weight, 1))
    return known.axis(weight, 1).expand(shape_of(node))


def _matmul(known: Trace, node: Node, args: list[Any]) -> Any:
    """Contracted channels are one, and rows and columns of a batch that are multiplied too (heads)."""
    if known.tensor_of(node.args[1]) is not None and node.args[1].meta["val"].dim() == 2:  # type: ignore[union-attr]
        return _multiplied(known, node, args[0], node.args[1], into=0)
    a, b = args[:2]
    shape = shape_of(node)
    if a is not None and b is not None:
        known.heads += [a, b]
    if a is not None and b is not None and varies(a, -1) and varies(b, -2):
        known.labels.join(a.narrow(-2, 0, 1).transpose(-1, -2), b.narrow(-1, 0, 1))
    parts = []
    if a is not None:
        parts.append(known.labels.join_along(a, [-1]).expand(shape))
    if b is not None:
        parts.append(known.labels.join_along(b, [-2]).expand(shape))
    if len(parts) == 2:
        known.labels.join(*parts)
        return sharper(*parts)
    return parts[0] if parts else None


def _einsum(known: Trace, node: Node, args: list[Any]) -> Any:
    """A product of two tensors: what is summed over is one, like in a product of matrices."""
    terms, out = str(args[0]).replace(" ", "").split("->")
    if "." in terms or any(known.tensor_of(source) for source in node.args[1]):  # type: ignore[union-attr]
        raise ValueError("a product with a parameter, or of dimensions without letters")
    known.heads += [x for x in args[1] if x is not None]
    parts, summed = [], []
    for x, letters in zip(args[1], terms.split(","), strict=True):
        if x is None or len(set(letters)) < len(letters):
            continue
        rows = known.labels.join_along(x, [i for i, letter in enumerate(letters) if letter not in out])
        summed.append((x, letters))
        order = [letters.find(letter) for letter in out]
        rows = rows[tuple(slice(None) if letter in out else 0 for letter in letters)]
        kept = [letter for letter in letters if letter in out]
        rows = rows.permute([kept.index(letter) for letter in out if letter in kept])
        parts.append(rows[tuple(None if i < 0 else slice(None) for i in order)].expand(shape_of(node)))
    if len(summed) == 2 and len(args[1]) == 2:
        (a, first), (b, second) = summed
        for letter in set(first) & set(second) - set(out):
            ends = [x[tuple(slice(None) if c == letter else 0 for c in own)] for x, own in ((a, first), (b, second))]
            known.labels.join(*ends)
    for other in parts[1:]:
        known.labels.join(parts[0], other)
    return max(parts, key=lambda part: len(varying(part))) if parts else None


def _attention(known: Trace, node: Node, args: list[Any]) -> Any:
    """Scaled dot-product attention: a head is one unit in queries, keys and values."""
    q, k, v = args[:3]
    if q is None or k is None or v is None:
        raise ValueError("attention of tensors without channels")
    known.heads += [q, k, v]
    heads = [known.labels.join_along(known.labels.join_along(x, [-1]), [-2]) for x in (q, k, v)]
    if len(args) > 3 and args[3] is not None:
        known.labels.join(known.labels.join_along(args[3], [-1, -2]), heads[0])
    for other in heads[1:]:
        if other.shape[-3] != heads[0].shape[-3]:
            other = other.repeat_interleave(heads[0].shape[-3] // other.shape[-3], -3)
        known.labels.join(heads[0], other)
    return heads[0].expand(shape_of(node))


RULES: dict[str, Rule] = {
    "linear": _linear,
    "addmm": _addmm,
    "mm": _matmul,
    "matmul": _matmul,
    "bmm": _matmul,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    **dict.fromkeys(("batch_norm", "instance_norm", "prelu"), _channel_tensors),
    **dict.fromkeys("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split(), _conv),
}
"""Name of an operation -> its rule."""
