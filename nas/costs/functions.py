"""Costs of a network: parameters, MACs, activations, latency.

A cost is any function of a plain module and its inputs for one sample. A configuration can name your own function by its dotted path. The
cost of a network must be the sum of the costs of the modules that run, so that it can be tabulated (see :mod:`nas.costs.tabulate`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import benchmark
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from nas.supernet.modules import copied

CostFunction = Callable[[nn.Module, Sequence[Any]], float]


def num_params(network: nn.Module, inputs: Sequence[Any] = ()) -> int:
    """The number of trainable parameters; `inputs` are ignored."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def num_macs(network: nn.Module, inputs: Sequence[Any]) -> int:
    """Multiply-accumulates of one sample: convolutions, linear layers and matrix products, as torch counts them.

    Args:
        network: A plain network. Counting runs a copy in eval mode, so the network does not change.
        inputs: The arguments of the network. The first axis of every tensor is the batch axis.
    """
    return count_macs(network, inputs) // batch_size(inputs)


def count_macs(module: nn.Module, inputs: Sequence[Any]) -> int:
    """Multiply-accumulates of one call with any inputs.

    Raises:
        ValueError: The count of a torch.nn layer that multiplies by weights is 0.
    """
    return int(_count(module, inputs, {_TRILINEAR: _bilinear_flops}, check=True) // 2)


def count_activations(module: nn.Module, inputs: Sequence[Any]) -> int:
    """Number of output elements of convolutions, linear layers and matrix products in one call; 4 bytes each in float32.

    Source: Radosavovic et al. 2020, "Designing Network Design Spaces", section 4.
    """
    return int(_count(module, inputs, dict.fromkeys([*flop_registry, _TRILINEAR], _num_elements)))


_TRILINEAR = torch.ops.aten._trilinear
_FREE = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU, nn.Embedding, nn.EmbeddingBag)
"""Layers with parameters but without matrix products: elementwise layers and lookups."""


def _bilinear_flops(first: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * first[0] * math.prod(weight)


def _num_elements(*_: Any, out_shape: Any = None, **__: Any) -> int:
    shape = out_shape if not out_shape or isinstance(out_shape[0], int) else out_shape[0]
    return math.prod(shape)


def _count(module: nn.Module, inputs: Sequence[Any], mapping: dict[Any, Any], *, check: bool = False) -> float:
    module = copied(module).eval()
    called: dict[str, nn.Module] = {}

    def note(name: str, layer: nn.Module, _: Any) -> None:
        called[name] = layer

    for name, layer in module.named_modules():
        if check and _multiplies(layer):
            layer.register_forward_pre_hook(partial(note, ".".join(filter(None, (type(module).__name__, name)))))
    with torch.no_grad(), plain_kernels(module), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        module(*inputs)
    counts = counter.get_flop_counts()
    for name, layer in called.items():
        if not sum(counts.get(name, {}).values()):
            raise ValueError(f"the multiply-accumulates of {type(layer).__name__} ({name}) cannot be counted")
    return counter.get_total_flops()


def _multiplies(layer: nn.Module) -> bool:
    """Whether a layer is a torch.nn layer that multiplies by its own weights."""
    is_torchs = type(layer).__module__.startswith("torch.nn.modules.")
    return is_torchs and bool(layer._parameters) and not isinstance(layer, _FREE)


@contextmanager
def plain_kernels(module: nn.Module) -> Iterator[None]:
    """Runs attention and recurrent layers as matrix products, because the counter does not see fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TF32 acceleration.*")  # restoring the oneDNN flags warns
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if recurrent:
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def batch_size(inputs: Any) -> int:
    """Length of the first axis of the first tensor in tuples, lists and dicts; raises ValueError without a tensor."""
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, torch.Tensor):
            return len(leaf)
    raise ValueError("the network's inputs contain no tensor, so the batch size is unknown")


def latency_ms(network: nn.Module, inputs: Sequence[Any], *, min_seconds: float = 0.5) -> float:
    """Median time of one forward pass in eval mode, in milliseconds, on the device of `inputs` with torch's number of threads."""
    network = copied(network).eval()
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
"""Costs that a configuration can name without a dotted path."""
SHORT_NAMES = {"latency": "latency_ms"}
"""Other names of costs, for limits given to commands."""
