"""What a network costs: parameters, MACs, activations, latency.

A cost is any function of a plain module and the inputs that it gets for one sample; a configuration names one of your own by its dotted
path. It must add up over the modules that run, for then it can be tabulated (see :mod:`nas.cost_model`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import benchmark
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

CostFunction = Callable[[nn.Module, Sequence[Any]], float]


def num_params(network: nn.Module, inputs: Sequence[Any] = ()) -> int:
    """The number of trainable numbers; `inputs` do not matter."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def num_macs(network: nn.Module, inputs: Sequence[Any]) -> int:
    """Multiply-accumulates of one sample: convolutions, linear layers and matrix products, as torch counts them.

    Args:
        network: A plain network; counted in eval mode on a copy, so nothing in it changes.
        inputs: Its arguments; first axis of every tensor: samples.
    """
    return count_macs(network, inputs) // batch_size(inputs)


def count_macs(module: nn.Module, inputs: Sequence[Any]) -> int:
    """Multiply-accumulates of one call, whatever its inputs are."""
    return int(_count(module, inputs, {}) // 2)


def count_activations(module: nn.Module, inputs: Sequence[Any]) -> int:
    """Numbers that convolutions, linear layers and matrix products of one call put out; 4 bytes each in float32.

    Source: Radosavovic et al. 2020, "Designing Network Design Spaces", section 4.
    """
    return int(_count(module, inputs, dict.fromkeys(flop_registry, _num_elements)))


def _num_elements(*_: Any, out_shape: Any = None, **__: Any) -> int:
    shape = out_shape if not out_shape or isinstance(out_shape[0], int) else out_shape[0]
    return math.prod(shape)


def _count(module: nn.Module, inputs: Sequence[Any], mapping: dict[Any, Any]) -> float:
    module = copy.deepcopy(module).eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        module(*inputs)
    return counter.get_total_flops()


def batch_size(inputs: Any) -> int:
    """Length of the first tensor's first axis, wherever it is inside tuples, lists and dicts.

    Raises:
        ValueError: There is no tensor.
    """
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, torch.Tensor):
            return len(leaf)
    raise ValueError("the network's inputs hold no tensor, so the batch size is not known")


def latency_ms(network: nn.Module, inputs: Sequence[Any], *, min_seconds: float = 0.5) -> float:
    """Median time of one forward in eval mode on the device of `inputs`, milliseconds, torch's present number of threads."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        timer = benchmark.Timer(
            "network(*inputs)",
            globals={"network": network, "inputs": inputs},
            num_threads=torch.get_num_threads(),
        )
        return float(timer.blocked_autorange(min_run_time=min_seconds).median * 1e3)


COSTS: Mapping[str, CostFunction] = {
    "params": num_params,
    "macs": count_macs,
    "activations": count_activations,
    "latency_ms": latency_ms,
}
"""The costs that a configuration can name by a word."""
