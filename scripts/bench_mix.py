"""Forward and backward of the mixing operation, compared with other implementations and with plain copies.

Command: python scripts/bench_mix.py --threads 1

All implementations run in one process and take turns, in a new random order each round. Inputs rotate through more memory than the caches
hold; tiny tensors stay in the caches. Threads are pinned. A measurement is a row of --depth mixes, then the gradients of all tensors
and weights in one backward call, because the overhead of a backward call is as large as a small mix. Each mix combines the previous result
with K - 1 new tensors. The output is the time of one mix. The memory of all results is allocated as in training. Times are CPU times with
one thread, so that other processes matter less, and wall-clock times with more threads. "copies" moves the least number of bytes that a mix
needs (reads K + K + 1, writes 1 + K), half read and half written, between existing buffers. A ratio is the median over rounds of
implementation / native: above 1, native is faster.

The allocator of the system returns freed memory and requests it again page by page, which costs every implementation as much as the mixing
itself. --malloc keep lets it keep freed memory, like the allocators that are recommended for training.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.ops import fused, mix, mix_reference

CASES: Sequence[tuple[tuple[int, ...], int]] = (
    ((64, 16, 32, 32), 5),
    ((64, 16, 32, 32), 8),
    ((64, 16, 40), 5),
    ((64,), 5),
)
CACHE_BYTES = 256 << 20
DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
Inputs = tuple[list[list[Tensor]], list[Tensor], Tensor]  # tensors and weights of each mix, gradient of the last result
Mix = Callable[[Sequence[Tensor], Tensor], Tensor]


def einsum(outputs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The mix as one contraction."""
    return torch.einsum("k...,k->...", torch.stack(list(outputs)), weights.to(outputs[0].dtype))


def gradients_of(function: Mix) -> Callable[[Inputs], None]:
    """A row of mixes, forward and backward."""

    def step(inputs: Inputs) -> None:
        outputs, weights, grad = inputs
        result = function(outputs[0], weights[0])
        for others, row in zip(outputs[1:], weights[1:], strict=True):
            result = function([result, *others], row)
        torch.autograd.grad(result, [*itertools.chain(*outputs), *weights], grad)

    return step


def copies_of(shape: tuple[int, ...], k: int, depth: int, dtype: torch.dtype) -> Callable[[Inputs], None]:
    """As many copies as move the least number of bytes: 3 K + 2 tensors read or written for each mix."""
    moved = (3 * k + 2) * depth
    buffers = [torch.zeros(shape, dtype=dtype).view(-1) for _ in range(num_sets(shape, k, depth, dtype) * depth * k)]
    half = buffers[0].numel() // 2
    turn = 0

    def step(inputs: Inputs) -> None:
        nonlocal turn
        for _ in range(moved // 2):
            turn = (turn + 2) % len(buffers)
            buffers[turn - 1].copy_(buffers[turn])
        if moved % 2:
            buffers[turn - 2][:half].copy_(buffers[turn - 3][:half])

    return step


def num_sets(shape: tuple[int, ...], k: int, depth: int, dtype: torch.dtype) -> int:
    """How many sets of inputs together exceed the caches; 4 where the tensors are tiny."""
    num_bytes = depth * k * torch.Size(shape).numel() * dtype.itemsize
    return max(4, CACHE_BYTES // num_bytes + 1) if num_bytes > 1 << 16 else 4


def inputs_of(shape: tuple[int, ...], k: int, depth: int, dtype: torch.dtype) -> list[Inputs]:
    """Sets of inputs that together exceed the caches."""

    def tensors(num: int) -> list[Tensor]:
        return [torch.randn(shape).to(dtype).requires_grad_() for _ in range(num)]

    return [
        (
            [tensors(k), *(tensors(k - 1) for _ in range(depth - 1))],
            [torch.full((k,), 1 / k, requires_grad=True) for _ in range(depth)],
            torch.randn(shape).to(dtype),
        )
        for _ in range(num_sets(shape, k, depth, dtype))
    ]


def measure(shape: tuple[int, ...], k: int, depth: int, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """Times of all contestants in microseconds for one mix, and their ratios to native."""
    contestants: dict[str, Callable[[Inputs], None]] = {
        "native": gradients_of(mix),
        "eager": gradients_of(mix_reference),
        "stack + einsum": gradients_of(einsum),
        "torch.compile": gradients_of(torch.compile(mix_reference, dynamic=False)),
        "copies": copies_of(shape, k, depth, dtype),
    }
    sets = inputs_of(shape, k, depth, dtype)
    repeats = min(
        50, max(1, 4_000_000 // (depth * torch.Size(shape).numel()))
    )  # a turn must outlast the change of contestants
    times = take_turns(contestants, sets, repeats, rounds)
    return [
        {
            "shape": list(shape),
            "k": k,
            "depth": depth,
            "dtype": str(dtype).removeprefix("torch."),
            "contestant": name,
            **figures([value / depth for value in values], [value / depth for value in times["native"]]),
        }
        for name, values in times.items()
    ]


def take_turns(
    contestants: Mapping[str, Callable[[Any], None]], sets: Sequence[Any], repeats: int, rounds: int
) -> dict[str, list[float]]:
    """Microseconds of one step of each contestant, in each round; the order is drawn anew each round, the inputs rotate."""
    for step in contestants.values():
        for inputs in sets[:3]:
            step(inputs)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = random.Random(0)
    turn = 0
    for _ in range(rounds):
        for name in order.sample(list(contestants), len(contestants)):
            begin = clock()
            for _ in range(repeats):
                turn += 1
                contestants[name](sets[turn % len(sets)])
            times[name].append((clock() - begin) / repeats * 1e6)
    return times


def figures(values: Sequence[float], native: Sequence[float]) -> dict[str, float]:
    """Of one contestant's times, and of native's in the same rounds."""
    return {
        "median_us": statistics.median(values),
        "min_us": min(values),
        "ratio": statistics.median(v / n for v, n in zip(values, native, strict=True)),
        "ratio_of_min": min(values) / min(native),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| shape, K, depth | contestant | median us | min us | ratio | of minima |", "|---|---|---|---|---|---|"]
    for row in rows:
        size = f"({', '.join(map(str, row['shape']))}), {row['k']}, {row['depth']}"
        lines.append(
            f"| {size} | {row['contestant']} | {row['median_us']:,.1f} | {row['min_us']:,.1f} "
            f"| {row['ratio']:.2f} | {row['ratio_of_min']:.2f} |"
        )
    return "\n".join(lines)


def show(rows: Sequence[dict[str, Any]], text: str, *, as_json: bool) -> None:
    """Prints what was measured on and the rows: as one JSON object, or as the `text` of a table."""
    facts = machine()
    if as_json:
        print(json.dumps({**facts, "rows": rows}))
    else:
        print("\n".join(f"{key}: {value}" for key, value in facts.items()) + "\n\n" + text)


def machine() -> dict[str, Any]:
    """What was measured on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = {line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(names)) or platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "backend": fused.describe(torch.device("cpu")),
    }


def pin(threads: int) -> None:
    """As many threads as asked for, on as many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)


def keep_memory() -> None:
    """Makes the system's allocator keep freed memory (glibc: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD)."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-1, 2**31 - 1)
        library.mallopt(-3, 2**30)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--shape", help="like 64,16,32,32; default: the sizes of kernels/README.md")
    parser.add_argument("--k", type=int, default=5, help="with --shape")
    parser.add_argument("--malloc", choices=("default", "keep"), default="default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    pin(options.threads)
    if options.malloc == "keep":
        keep_memory()
    cases = CASES
    if options.shape:
        cases = ((tuple(int(size) for size in options.shape.split(",")), options.k),)
    torch.manual_seed(0)
    rows = [
        row for shape, k in cases for row in measure(shape, k, options.depth, DTYPES[options.dtype], options.rounds)
    ]
    show(rows, table(rows), as_json=options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
