"""What architectures cost: functions, tables over choices, and limits kept exactly."""

from nas.costs.functions import (
    COSTS,
    CostFunction,
    batch_size,
    count_activations,
    count_macs,
    latency_ms,
    num_macs,
    num_params,
    plain_kernels,
)

__all__ = [
    "COSTS",
    "CostFunction",
    "batch_size",
    "count_activations",
    "count_macs",
    "latency_ms",
    "num_macs",
    "num_params",
    "plain_kernels",
]
