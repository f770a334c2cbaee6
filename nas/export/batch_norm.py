"""Folds batch norms into the layers before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from nas.export.subject import check_same
from nas.supernet.modules import copied

TOLERANCE = 1e-5
"""Largest difference of an output, relative to the largest output or to 1."""

_LAYERS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.linear.default")

Pairs = Sequence[tuple[str, str]]


def fold_batch_norms(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Pairs]:
    """A copy with each batch norm folded into the convolution or linear layer directly before it, and the pairs (layer, norm).

    An identity replaces each norm, so other keys of the state dict do not change.

    Raises:
        ValueError: No norm can be folded, or the outputs for `inputs` differ by more than the tolerance.
    """
    pairs = _find(network, inputs)
    if not pairs:
        raise ValueError("no batch norm follows a convolution or linear layer directly; leave out --fold-bn")
    folded = copied(network)
    for layer_name, norm_name in pairs:
        layer: Any = folded.get_submodule(layer_name)
        norm: Any = folded.get_submodule(norm_name)
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        if isinstance(layer, nn.Linear):
            layer.weight, layer.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)
        else:
            layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics)
    strip_batch_norms(folded, pairs)
    check_same(folded, network, inputs, TOLERANCE, "folding batch norms")
    return folded, pairs


def strip_batch_norms(network: nn.Module, pairs: Pairs) -> None:
    """Gives a new network the structure of a folded one: layers with a bias, identities for norms."""
    for layer_name, norm_name in pairs:
        layer: Any = network.get_submodule(layer_name)
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]))
        network.set_submodule(norm_name, nn.Identity())


def _find(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[str, str]]:
    """Pairs of a layer and the norm that is the only reader of its output, from the traced graph."""
    program = torch.export.export(network, inputs)
    tensors = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    num_reads = {tensors[node.name]: len(node.users) for node in program.graph.nodes if node.name in tensors}
    pairs = []
    for node in program.graph.nodes:
        if str(node.target) != "aten.batch_norm.default" or str(getattr(node.args[0], "target", "")) not in _LAYERS:
            continue
        layer = node.args[0]
        weight, mean = (tensors.get(getattr(arg, "name", "")) for arg in (layer.args[1], node.args[3]))
        if len(layer.users) == 1 and weight and mean and num_reads[weight] == num_reads[mean] == 1:
            pairs.append((weight.rpartition(".")[0], mean.rpartition(".")[0]))
    return pairs
