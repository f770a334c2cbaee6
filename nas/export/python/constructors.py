"""The constructor calls of torch's own layers, read off the layers and proven by building them anew."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from nas.export.python.expressions import Argument, Call, is_literal, literal

NAMESPACE = "torch.nn."
_SKIPPED = ("device", "dtype")

_TRANSFORMER = {
    "d_model": lambda m: m.self_attn.embed_dim,
    "nhead": lambda m: m.self_attn.num_heads,
    "dim_feedforward": lambda m: m.linear1.out_features,
    "dropout": lambda m: m.dropout.p,
    "layer_norm_eps": lambda m: m.norm1.eps,
    "batch_first": lambda m: m.self_attn.batch_first,
    "bias": lambda m: m.linear1.bias is not None,
    "activation": lambda m: {"relu": "relu", "gelu": "gelu"}.get(getattr(m.activation, "__name__", ""), m.activation),
}
_READERS: Mapping[type[nn.Module], Mapping[str, Any]] = {
    nn.TransformerEncoderLayer: _TRANSFORMER,
    nn.TransformerDecoderLayer: _TRANSFORMER,
    nn.TransformerEncoder: {"encoder_layer": lambda m: m.layers[0], "norm": lambda m: m.norm},
    nn.TransformerDecoder: {"decoder_layer": lambda m: m.layers[0], "norm": lambda m: m.norm},
    nn.MultiheadAttention: {
        "bias": lambda m: m.in_proj_bias is not None,
        "add_bias_kv": lambda m: m.bias_k is not None,
    },
    nn.EmbeddingBag: {"_weight": lambda m: None},
    nn.Embedding: {"_weight": lambda m: None},
    nn.Upsample: {"scale_factor": lambda m: m.scale_factor},
}
"""Arguments that are not kept in an attribute of their own name."""


def is_torch_layer(kind: type) -> bool:
    """Whether a class is one of torch's own layers."""
    return kind.__module__.startswith(NAMESPACE) and issubclass(kind, nn.Module) and kind is not nn.Module


def torch_name(kind: type) -> str:
    """How source names a class of ``torch.nn``."""
    return f"nn.{kind.__name__}" if getattr(nn, kind.__name__, None) is kind else f"{kind.__module__}.{kind.__name__}"


def constructor(module: nn.Module, kind: type[nn.Module]) -> Call:
    """The call that builds a layer of the same sizes and settings; weights come from the state dict.

    Args:
        module: A layer of torch's, or of a subclass.
        kind: The class of torch's to build.

    Raises:
        ValueError: Its arguments cannot be read off it.
    """
    arguments = dict(_arguments(module, kind))
    if _rebuilt(kind, arguments, module) is None:
        raise ValueError(f"the arguments of {torch_name(kind)} cannot be read off it")
    result = []
    parameters = _parameters(kind)
    required = True
    for name, value in arguments.items():
        parameter = parameters.get(name)
        required = required and parameter is not None and parameter.default is inspect.Parameter.empty
        single = _single(value)
        if single is not value and _rebuilt(kind, {**arguments, name: single}, module) is not None:
            arguments[name] = value = single
        others = {key: other for key, other in arguments.items() if key != name}
        optional = not required and _rebuilt(kind, others, module) is not None
        first = parameter is not None and parameter is next(iter(parameters.values()))
        plain = parameter is not None and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        positional = plain and (required or (first and not isinstance(value, bool)))
        written = constructor(value, type(value)) if isinstance(value, nn.Module) else literal(value)
        result.append(Argument(name, written, positional, optional))
    return Call(torch_name(kind), tuple(result))


def _parameters(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    if issubclass(kind, nn.RNNBase) and kind is not nn.RNNBase:
        both = inspect.signature(nn.RNNBase.__init__).parameters
        own = {"nonlinearity": inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh")}
        without = ("self", "mode") if issubclass(kind, nn.LSTM) else ("self", "mode", "proj_size")
        return {k: v for k, v in both.items() if k not in without} | (own if kind is nn.RNN else {})
    signature = inspect.signature(kind.__init__)
    return {name: p for name, p in signature.parameters.items() if name != "self"}


def _arguments(module: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    readers = next((_READERS[base] for base in kind.__mro__ if base in _READERS), {})
    for name, parameter in _parameters(kind).items():
        if name in _SKIPPED or parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        value = readers[name](module) if name in readers else getattr(module, name, _MISSING)
        if name == "bias" and not isinstance(value, bool):
            value = isinstance(value, torch.Tensor)
        if value is _MISSING or not (is_literal(value) or isinstance(value, nn.Module)):
            if parameter.default is inspect.Parameter.empty:
                raise ValueError(f"{torch_name(kind)}: argument {name} cannot be read off it")
            continue
        yield name, value
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
    if dtype is not None and dtype != torch.get_default_dtype() and "dtype" in _parameters(kind):
        yield "dtype", dtype


_MISSING = object()


def _single(value: Any) -> Any:
    """One number for several equal ones."""
    if isinstance(value, tuple) and value and all(type(item) is int and item == value[0] for item in value):
        return value[0]
    return value


def _rebuilt(kind: type[nn.Module], arguments: Mapping[str, Any], model: nn.Module) -> nn.Module | None:
    """The layer that such arguments build, on no device; None where it is another than `model`, or none."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = kind(**arguments)
    except Exception:  # whatever a constructor says of arguments that do not fit
        return None
    return module if _same(module, model) else None


_IGNORED = {"training", "_parameters", "_buffers", "_modules"}
_FRESH = frozenset(vars(nn.Module()))


def _same(left: nn.Module, right: nn.Module) -> bool:
    """Whether two layers differ in nothing but values of tensors."""
    if left._non_persistent_buffers_set != right._non_persistent_buffers_set:
        return False
    mine = {k: v for k, v in vars(left).items() if k not in _FRESH}
    theirs = vars(right)
    for key, value in mine.items():
        if key not in theirs or not _equal(value, theirs[key]):
            return False
    for one, other in ((left._parameters, right._parameters), (left._buffers, right._buffers)):
        if set(one) != set(other):  # a weight that was made plain stands behind the others
            return False
        for a, b in ((one[name], other[name]) for name in one):
            if (a is None) != (b is None):
                return False
            if a is not None and b is not None and (a.shape != b.shape or a.dtype != b.dtype):
                return False
    if list(left._modules) != list(right._modules):
        return False
    for a_child, b_child in zip(left._modules.values(), right._modules.values(), strict=True):
        if (a_child is None) != (b_child is None):
            return False
        if a_child is not None and b_child is not None and not _same(a_child, b_child):
            return False
    return True


def _equal(left: Any, right: Any) -> bool:
    """Equal settings; what holds tensors is compared elsewhere."""
    if is_literal(left) or is_literal(right):
        return (type(left) is type(right) and bool(left == right)) or (
            left == right and is_literal(left) and is_literal(right)
        )
    return type(left) is type(right)
