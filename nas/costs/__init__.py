"""Costs of architectures: functions, tables over choices, and exact limits."""

from nas.costs.functions import COSTS as COSTS
from nas.costs.functions import CostFunction as CostFunction
from nas.costs.functions import batch_size as batch_size
from nas.costs.functions import count_activations as count_activations
from nas.costs.functions import count_macs as count_macs
from nas.costs.functions import latency_ms as latency_ms
from nas.costs.functions import num_macs as num_macs
from nas.costs.functions import num_params as num_params
from nas.costs.functions import plain_kernels as plain_kernels
