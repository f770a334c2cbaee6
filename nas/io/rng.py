"""Random numbers keyed by purpose, so that a draw never depends on the number of other draws.

This makes exact resuming and equal noise on all ranks possible: the draw of step 117 is the same in a new process and in a process that
has made 116 draws before.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Hashes a run's seed, a purpose and counters into one 63-bit seed.

    Args:
        seed: The run's seed.
        purpose: The purpose of the numbers, for example ``"noise"``. Different purposes have independent streams.
        *counters: Position within the purpose, for example step or (epoch, index).
    """
    text = "/".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def keyed_generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator on `device`, seeded with :func:`derive_seed` of the other arguments."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *counters))


def untouched_rng(device: torch.device | None = None) -> AbstractContextManager[None]:
    """Restores torch's default generator of the CPU after the block, and the generator of `device` if it is a GPU."""
    return torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else [])


def uniform_like(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Uniform numbers in [0, 1) with the shape, dtype and device of `like`; no gradient."""
    return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def seed_global_generators(seed: int) -> None:
    """Seeds torch's default generators, which dropout and augmentation use.

    Without an accelerator, this seeds only the generator of the CPU: ``torch.manual_seed`` would add a call with a formatted traceback to a
    queue for the start of CUDA, which never happens (measured: 0.2 ms for each call, and the queue only grows).
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
