"""The calls that build layers and containers of torch: read from the modules, and checked by building the layers again."""

from __future__ import annotations

import ast
import inspect
import itertools
import pkgutil
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nas.export.python.code import call, is_identifier, is_plain, kind_of, parsed, plain, unparsed

CONTAINERS: tuple[type[nn.Module], ...] = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

MIN_REPEATS = 3  # equal neighbors that a comprehension replaces
_MISSING = object()
_FRESH = frozenset(vars(nn.Module()))
_TRANSFORMER = {
    "d_model": lambda m: m.self_attn.embed_dim,
    "nhead": lambda m: m.self_attn.num_heads,
    "dim_feedforward": lambda m: m.linear1.out_features,
    "dropout": lambda m: m.dropout.p,
    "layer_norm_eps": lambda m: m.norm1.eps,
    "batch_first": lambda m: m.self_attn.batch_first,
    "bias": lambda m: m.linear1.bias is not None,
    "activation": lambda m: "gelu" if m.activation is nn.functional.gelu else m.activation,
}
_POOLING = {"stride": lambda m: None if m.stride == m.kernel_size else m.stride}
_READERS: Mapping[type[nn.Module], Mapping[str, Any]] = {
    nn.TransformerEncoderLayer: _TRANSFORMER,
    nn.TransformerDecoderLayer: _TRANSFORMER,
    nn.TransformerEncoder: {"encoder_layer": lambda m: m.layers[0]},
    nn.TransformerDecoder: {"decoder_layer": lambda m: m.layers[0]},
    nn.MultiheadAttention: {
        "bias": lambda m: m.in_proj_bias is not None,
        "add_bias_kv": lambda m: m.bias_k is not None,
        "kdim": lambda m: None if m.kdim == m.embed_dim else m.kdim,
        "vdim": lambda m: None if m.vdim == m.embed_dim else m.vdim,
    },
    nn.modules.pooling._MaxPoolNd: _POOLING,
    nn.modules.pooling._AvgPoolNd: _POOLING,
}
"""Readers of the arguments that a layer does not store under the same name."""


def is_torch_layer(kind: type) -> bool:
    """Whether a class is a layer of torch."""
    return kind.__module__.startswith("torch.nn.") and issubclass(kind, nn.Module) and kind is not nn.Module


def torch_name(kind: type) -> str:
    """The name of a class of ``torch.nn`` in source."""
    return f"nn.{kind.__name__}" if getattr(nn, kind.__name__, None) is kind else f"{kind.__module__}.{kind.__name__}"


def constructor(module: nn.Module, kind: type[nn.Module]) -> ast.Call:
    """The call, with all arguments, of a class of torch that builds a layer of the same sizes and settings, without its weights."""
    arguments = _arguments(module, kind)
    if _built(kind, arguments, module) is None:
        raise ValueError(f"the arguments of {torch_name(kind)} cannot be read from the layer")
    for name, value in arguments.items():
        if isinstance(value, tuple) and value and all(type(item) is int and item == value[0] for item in value):
            if _built(kind, {**arguments, name: value[0]}, module) is not None:
                arguments[name] = value[0]
    written = {k: constructor(v, type(v)) if isinstance(v, nn.Module) else plain(v) for k, v in arguments.items()}
    return call(torch_name(kind), **written)


def attributes_set(module: nn.Module, kind: type[nn.Module]) -> set[str]:
    """Attributes, parameters, buffers and modules that the constructor of a class of torch sets."""
    fresh = nn.Module() if kind in (nn.Module, *CONTAINERS) else _built(kind, _arguments(module, kind), module)
    assert fresh is not None
    return {*vars(fresh), *fresh._parameters, *fresh._buffers, *fresh._modules}


def shortened(node: ast.expr) -> ast.expr:
    """The expression without arguments that layers have by default, and with comprehensions for equal neighbors."""
    return _Short().visit(parsed(unparsed(node)))


class _Short(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        node.args = _with_repeats(node.args)
        dotted = f"torch.{unparsed(node.func)}".replace("torch.torch.", "torch.")
        kind = pkgutil.resolve_name(dotted) if dotted.startswith("torch.nn.") else None
        if isinstance(kind, type) and is_torch_layer(kind) and kind not in CONTAINERS:
            known, kept = parameters(kind), []
            for item in node.keywords:
                parameter = known[str(item.arg)]
                if kind_of(item.value) and ast.literal_eval(item.value) == parameter.default:
                    continue
                first = item.arg == next(iter(known)) and not isinstance(parameter.default, bool)
                if (first or parameter.default is parameter.empty) and parameter.kind is not parameter.KEYWORD_ONLY:
                    node.args.append(item.value)
                else:
                    kept.append(item)
            node.keywords = kept
        return node

    def visit_List(self, node: ast.List) -> ast.expr:
        self.generic_visit(node)
        node.elts = _with_repeats(node.elts)
        only = node.elts[0] if len(node.elts) == 1 else None
        return only.value if isinstance(only, ast.Starred) else node


def _with_repeats(items: Sequence[ast.expr]) -> list[ast.expr]:
    result: list[ast.expr] = []
    for item, group in itertools.groupby(items, unparsed):
        equal = list(group)
        if len(equal) >= MIN_REPEATS and isinstance(equal[0], ast.Call):
            equal = [ast.Starred(parsed(f"[{item} for _ in range({len(equal)})]"), ast.Load())]
        result += equal
    return result


def parameters(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """The parameters of a layer's constructor."""
    if issubclass(kind, nn.RNNBase) and kind is not nn.RNNBase:
        both = inspect.signature(nn.RNNBase.__init__).parameters
        own = {"nonlinearity": inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh")}
        without = ("self", "mode") if issubclass(kind, nn.LSTM) else ("self", "mode", "proj_size")
        return {k: v for k, v in both.items() if k not in without} | (own if kind is nn.RNN else {})
    return {name: p for name, p in inspect.signature(kind.__init__).parameters.items() if name != "self"}


def _arguments(module: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    result = {}
    readers = next((_READERS[base] for base in kind.__mro__ if base in _READERS), {})
    for name, parameter in parameters(kind).items():
        if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = readers[name](module) if name in readers else getattr(module, name, _MISSING)
        if name == "bias" and not isinstance(value, bool):
            value = isinstance(value, torch.Tensor) or getattr(module, "weight", module) is None  # no weight, no bias
        if is_plain(value) or isinstance(value, nn.Module):
            result[name] = value
        elif parameter.default is parameter.empty:
            raise ValueError(f"{torch_name(kind)}: argument {name} cannot be read from the layer")
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
    if dtype is not None and dtype != torch.get_default_dtype() and "dtype" in parameters(kind):
        result["dtype"] = dtype
    return result


def _built(kind: type[nn.Module], arguments: Mapping[str, Any], model: nn.Module) -> nn.Module | None:
    """The layer that these arguments build, on the meta device; None if there is none, or if it differs from `model`."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = kind(**arguments)
    except Exception:  # constructors raise anything for arguments that do not fit
        return None
    (parts, settings), (model_parts, model_settings) = _facts(module), _facts(model)
    same = parts == model_parts and all(model_settings.get(k, _MISSING) == v for k, v in settings.items())
    return module if same else None  # a subclass of `kind` may have further settings


def _facts(module: nn.Module) -> tuple[list[Any], dict[str, Any]]:
    """Of a layer and the layers inside it: names, shapes and types of tensors, and settings by dotted name."""
    parts, settings = list[Any](), dict[str, Any]()
    for path, part in module.named_modules(remove_duplicate=False):
        tensors = {**part._parameters, **part._buffers}.items()
        shapes = {name: tensor if tensor is None else (tensor.shape, tensor.dtype) for name, tensor in tensors}
        parts.append((path, shapes, part._non_persistent_buffers_set))
        own = {name: value for name, value in vars(part).items() if name not in _FRESH}
        settings |= {f"{path}.{name}": value if is_plain(value) else type(value) for name, value in own.items()}
    return parts, settings


def container(module: nn.Module, kind: type[nn.Module], children: Mapping[str, ast.expr]) -> ast.Call:
    """The expression that builds a Sequential, ModuleList or ModuleDict from expressions of its children."""
    if len(children) != len(module._modules):
        raise ValueError("a container with an empty place cannot be written")
    names, items = list(children), list(children.values())
    numbered = names == [str(i) for i in range(len(names))]
    if kind is nn.ModuleList and not numbered:
        raise ValueError("a ModuleList whose numbers have gaps cannot be written")
    if kind is nn.ModuleList and items:
        items = [ast.List(items, ast.Load())]
    elif kind is nn.ModuleDict and items:
        items = [ast.Dict([plain(name) for name in names], items)]
    elif not numbered and all(map(is_identifier, names)):
        items = [call("OrderedDict", **children)]
    elif not numbered:
        pairs = [ast.Tuple([plain(name), item], ast.Load()) for name, item in children.items()]
        items = [call("OrderedDict", ast.List([*pairs], ast.Load()))]
    return call(torch_name(kind), *items)
