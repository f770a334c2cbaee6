"""Operations that mix or normalize channels: linear layers, convolutions, products, attention, norms."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from nas.conversion.labels import sharper, varies, varying
from nas.conversion.tracing import NormRead, Rule, Side, Trace, module_of, shape_of


def _linear(known: Trace, node: Node, args: list[Any], *, transposed: bool = False) -> Any:
    x, weight = args[0], known.tensor_of(node.args[1])
    if weight is None:
        raise ValueError("the weight is computed")
    bias = known.tensor_of(node.args[2]) if len(node.args) > 2 else None
    into, out = (0, 1) if transposed else (1, 0)
    if x is not None and not varies(x, -1) and varying(x):  # the layer mixes other things than channels
        return x.narrow(-1, 0, 1).expand(shape_of(node))
    labels = known.labels
    if x is None:
        known.freeze(known.axis(weight, into), "it reads an input")
    else:
        labels.join(x, known.axis(weight, into))
    known.reads.append(Side(module_of(node)[0], weight, into))
    known.produced.append(Side(module_of(node)[0], weight, out))
    if bias is not None:
        labels.join(known.axis(bias, 0), known.axis(weight, out))
    return known.axis(weight, out).expand(shape_of(node))


def _addmm(known: Trace, node: Node, args: list[Any]) -> Any:
    bias, x, weight = node.args[:3]
    node = _With(node, (x, weight, bias))  # type: ignore[assignment]
    return _linear(known, node, [args[1], args[2], args[0]], transposed=True)


class _With:
    """A node with other arguments."""

    def __init__(self, node: Node, args: tuple[Any, ...]) -> None:
        self.meta, self.args = node.meta, args


def _conv(known: Trace, node: Node, args: list[Any]) -> Any:
    name = node.target._schema.name  # type: ignore[union-attr]
    x, weight = args[0], known.tensor_of(node.args[1])
    if weight is None:
        raise ValueError("the weight is computed")
    bias = known.tensor_of(node.args[2]) if len(node.args) > 2 else None
    is_transposed = "transpose" in name
    groups: Any = node.args[6] if len(node.args) > 6 else 1
    labels, (into, out) = known.labels, ((0, 1) if is_transposed else (1, 0))
    if groups == 1:
        if x is None:
            known.freeze(known.axis(weight, into), "it reads an input")
        else:
            labels.join(x.movedim(1, -1), known.axis(weight, into))
        known.reads.append(Side(module_of(node)[0], weight, into))
        made = known.axis(weight, out)
        known.produced.append(Side(module_of(node)[0], weight, out))
    else:  # all channels of a convolution group are one unit
        if is_transposed or x is None:
            raise ValueError("a convolution of groups that is transposed, or reads no channels")
        made = known.axis(weight, 0)
        unit = made.view(groups, -1)[:, :1]
        labels.join(made.view(groups, -1), unit)
        labels.join(x.movedim(1, -1).unflatten(-1, (groups, -1)), unit)
    if bias is not None:
        labels.join(known.axis(bias, 0), made)
    shape = shape_of(node)
    return made.view(-1, *[1] * (len(shape) - 2)).expand(shape)


def _channel_tensors(known: Trace, node: Node, args: list[Any]) -> Any:
    """Batch norm, instance norm, PReLU: tensors with one number for each channel of dimension 1."""
    x = args[0]
    for source in node.args[1:]:
        tensor = known.tensor_of(source)
        if x is not None and tensor is not None and known.tensors[tensor].numel() > 1:
            known.labels.join(x.movedim(1, -1), known.axis(tensor, 0))
    return x


def _group_norm(known: Trace, node: Node, args: list[Any]) -> Any:
    x = args[0]
    if x is None:
        return None
    parts = x.movedim(1, -1).unflatten(-1, (args[1], -1))
    known.labels.join(parts, parts[..., :1])
    return _channel_tensors(known, _With(node, (node.args[0], *node.args[2:4])), [x])  # type: ignore[arg-type]


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
        known.norms.append(NormRead(module_of(node)[0], x, "layer_norm" in str(node.target)))
    return x


def _embedding(known: Trace, node: Node, args: list[Any]) -> Any:
    weight = known.tensor_of(node.args[0])
    if weight is None:
        raise ValueError("the weight is computed")
    known.produced.append(Side(module_of(node)[0], weight, 1))
    return known.axis(weight, 1).expand(shape_of(node))


def _matmul(known: Trace, node: Node, args: list[Any]) -> Any:
    """Contracted channels are one, and rows and columns of a batch that are multiplied too (heads)."""
    if known.tensor_of(node.args[1]) is not None and node.args[1].meta["val"].dim() == 2:  # type: ignore[union-attr]
        return _linear(known, node, args, transposed=True)
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
