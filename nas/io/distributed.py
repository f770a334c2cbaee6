"""Collective operations of the processes of a search. With one process, they do nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def num_processes() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The rank of this process; 0 with one process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag of any process is set."""
    if num_processes() == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces the gradients by their means over the processes, in one message. Missing gradients of a process count as zero.

    DistributedDataParallel does not fit: a step has several backward passes over different parameters, sampled paths skip some
    parameters, and the hooks of the wrapper do not see ``torch.autograd.grad``.
    """
    if num_processes() == 1:
        return
    used = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device, dtype=torch.int32)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    wanted = [p for p, is_used in zip(parameters, used.tolist(), strict=True) if is_used]
    for parameter in wanted:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    average([parameter.grad for parameter in wanted if parameter.grad is not None])


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replaces the tensors by their means over the processes, in one message for each dtype."""
    if num_processes() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        group = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in group])
        dist.all_reduce(flat)
        flat /= num_processes()
        for tensor, mean in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def check_equal(tensors: Mapping[str, Tensor]) -> None:
    """Compares the tensors of all processes bit by bit; raises RuntimeError with the name of a tensor that differs."""
    if num_processes() == 1:
        return
    digests = [int.from_bytes(_digest(tensor)[:7], "little") for tensor in tensors.values()]
    device = next(iter(tensors.values())).device
    mine = torch.tensor(digests, dtype=torch.int64, device=device)
    least, most = mine.clone(), mine.clone()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    bad = [name for name, same in zip(tensors, (least == most).tolist(), strict=True) if not same]
    if bad:
        raise RuntimeError(
            f"the processes of this run have different values of {bad[0]}; the result would depend on the process"
        )


def _digest(tensor: Tensor) -> bytes:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(content.numpy().tobytes()).digest()


def gathered(item: Any) -> list[Any]:
    """The plain values of all processes, in the order of ranks."""
    items: list[Any] = [item]
    if num_processes() > 1:
        items = [None] * num_processes()
        dist.all_gather_object(items, item)
    return items


def leave() -> None:
    """Waits for all processes, and destroys the process group. The first process then continues alone."""
    if num_processes() > 1:
        dist.barrier()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
