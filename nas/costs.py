"""What a network costs: parameters, MACs, latency."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import benchmark
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def num_params(network: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def num_macs(network: nn.Module, inputs: Sequence[Any]) -> int:
    """Multiply-accumulates of one sample: convolutions, linear layers and matrix products, as torch counts them.

    Args:
        network: A plain network; counted in eval mode on a copy, so nothing in it changes.
        inputs: Its arguments; first axis of every tensor: samples.
    """
    network = copy.deepcopy(network).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return int(counter.get_total_flops()) // 2 // batch_size(inputs)


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
