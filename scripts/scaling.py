"""The communication of a search over several processes, measured with 1 and 2 processes, and a projection to 8 and 64 GPUs.

Command: python scripts/scaling.py --config configs/nasbench201_digits.yaml

Measured with CPU processes of this machine (gloo): milliseconds of a step; messages and bytes that a step averages over processes
(gradients of both parameter sets, and the buffers), and their milliseconds; operations of a step; and milliseconds in which one loader
process makes a pair of batches.

The projection is arithmetic, not a measurement. It assumes
- weak scaling: every process keeps its batch, so its own work stays the same;
- that a step takes as long as launching its operations, the least time of a GPU, which gives the lowest efficiency;
- that averaging overlaps with no other work: a message of b bytes over N processes takes 2 log2(N) times the latency (up and down a tree)
  and 2 (N - 1) / N * b / bandwidth (the theoretical least), with the bandwidth of the network between machines and of the link within one;
- that loader processes do not slow down each other.
An option sets each assumed number.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

import nas
from nas.cli import main as nas_main
from nas.data.loader import ResumableLoader
from nas.io.markdown import markdown_table
from nas.training import train_module
from nas.training.search_module import SearchModule

GPUS_PER_MACHINE = 8
PROJECTED = (1, 2, 8, 64)


class Assumed(NamedTuple):
    """What is assumed of the GPUs.

    Attributes:
        launch_us: Microseconds that an operation takes to launch.
        latency_us: Microseconds of a message between two processes.
        link: Gigabytes a second between the GPUs of a machine.
        network: Gigabytes a second between machines.
    """

    launch_us: float = 5.0
    latency_us: float = 10.0
    link: float = 100.0
    network: float = 12.5


class Measured(NamedTuple):
    """Of one step.

    Attributes:
        milliseconds: Median of a step.
        messages: All-reduces.
        bytes: What they carry.
        sending: Milliseconds in them, mean.
        operations: What the device is asked for, views and allocations not counted.
        loading: Milliseconds in which one process makes a batch pair.
        batch_size: Samples a process.
    """

    milliseconds: float
    messages: float
    bytes: float
    sending: float
    operations: int
    loading: float
    batch_size: int


def averaging_ms(num: int, messages: float, size: float, assumed: Assumed) -> float:
    """Milliseconds of averaging.

    Args:
        num: Processes.
        messages: How many messages.
        size: Their bytes together.
        assumed: Latency and bandwidths.
    """
    if num == 1:
        return 0.0
    gigabytes = assumed.link if num <= GPUS_PER_MACHINE else assumed.network
    latency = 2 * math.ceil(math.log2(num)) * messages * assumed.latency_us * 1e-3
    return latency + 2 * (num - 1) / num * size / gigabytes * 1e-6


def projected(measured: Measured, assumed: Assumed) -> list[dict[str, float]]:
    """The least efficiency, and the loader processes that each GPU needs, for every number of GPUs."""
    step = measured.operations * assumed.launch_us * 1e-3
    rows = []
    for num in PROJECTED:
        averaging = averaging_ms(num, measured.messages, measured.bytes, assumed)
        rows.append(
            {
                "num_gpus": num,
                "step_ms": step + averaging,
                "averaging_ms": averaging,
                "efficiency": step / (step + averaging),
                "samples_per_second": num * measured.batch_size / (step + averaging) * 1e3,
                "num_workers": math.ceil(measured.loading / (step + averaging)),
            }
        )
    return rows


class Operations(TorchDispatchMode):
    """Counts what reaches the device: views and empty tensors do not."""

    def __init__(self) -> None:
        """Starts from nothing."""
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not (func.is_view or func.overloadpacket.__name__.startswith(("empty", "new_empty", "detach")))
        return func(*args, **(kwargs or {}))


class Watch:
    """Times the steps and messages of searches of this process."""

    def __init__(self, first: int) -> None:
        """Begins with so many steps that are not counted; one more, the last, counts operations."""
        self.first = first
        self.steps: list[float] = []
        self.sending: list[float] = []
        self.bytes = 0
        self.operations = 0
        self.counts = True

    def __enter__(self) -> Watch:
        self._step, self._reduce, self._check = SearchModule.training_step, dist.all_reduce, train_module.check_equal
        watch = self

        def step(module: SearchModule, *args: Any) -> None:
            number = module.num_batches_done
            if number == module.num_batches_total - 1:
                with Operations() as counted:
                    watch._step(module, *args)
                watch.operations = counted.number
                return
            begin = time.perf_counter()
            watch._step(module, *args)
            if number >= watch.first:
                watch.steps.append((time.perf_counter() - begin) * 1e3)

        def reduce(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            result = watch._reduce(tensor, *args, **options)
            if watch.counts and watch.steps:
                watch.sending.append((time.perf_counter() - begin) * 1e3)
                watch.bytes += tensor.nbytes
            return result

        def check(tensors: Mapping[str, torch.Tensor]) -> None:
            watch.counts = False  # once an epoch, not a step's
            watch._check(tensors)
            watch.counts = True

        SearchModule.training_step, dist.all_reduce, train_module.check_equal = step, reduce, check  # type: ignore
        return self

    def __exit__(self, *error: Any) -> None:
        SearchModule.training_step, dist.all_reduce, train_module.check_equal = self._step, self._reduce, self._check  # type: ignore


def measure(words: Sequence[str], num_batches: int) -> dict[str, Any]:
    """One search of this process (and, with several devices, those that Lightning starts beside it)."""
    with Watch(num_batches) as watch, tempfile.TemporaryDirectory() as folder:
        code = nas_main(["search", *words, "--out", f"{folder}/run", "--json"])
    if code:
        sys.exit(code)
    counted = max(1, len(watch.steps))
    return {
        "milliseconds": statistics.median(watch.steps),
        "messages": len(watch.sending) / counted,
        "bytes": watch.bytes / counted,
        "sending": sum(watch.sending) / counted,
        "operations": watch.operations,
    }


def loading_ms(loader: ResumableLoader, num_batches: int) -> float:
    """Milliseconds in which this process makes a batch pair."""
    for _ in range(2):  # the first time is not counted
        begin = time.perf_counter()
        number = sum(1 for _ in islice(loader, num_batches))
    return (time.perf_counter() - begin) / max(1, number) * 1e3


def run(config: str, num: int, num_batches: int, others: Sequence[str]) -> Measured:
    """Measures a search of so many processes, in processes of its own."""
    data = nas.experiment(nas.ConfigSource((Path(config),), tuple(others))).data
    per_epoch = len(data.search_loader(0, world_size=num))
    overrides = {
        "trainer.accelerator": "cpu",
        "trainer.devices": num,
        "trainer.max_epochs": 1 + math.ceil(2 * num_batches / per_epoch),
        "trainer.limit_train_batches": "null",
        "trainer.num_images": 0,
        "trainer.num_threads": 1,
        "model.warmup_epochs": 0,
        "model.warmup_paths": "null",
        "model.derive": "nas.derive.Argmax",
        "data.num_workers": 0,
    }
    words = ["--config", config, *others, *(f"--{key}={value}" for key, value in overrides.items())]
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, __file__, "--measure", file.name, "--num-batches", str(num_batches), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = json.load(file)
    return Measured(**found, loading=loading_ms(data.search_loader(0), num_batches), batch_size=data.batch_size)


def report(measured: Mapping[int, Measured], rows: Sequence[Mapping[str, float]], assumed: Assumed) -> str:
    """Two tables."""
    columns = ("processes", "ms a step", "messages", "KB averaged", "ms averaging", "operations", "ms to load a pair")
    cells = [
        (
            str(num),
            f"{m.milliseconds:.1f}",
            f"{m.messages:.0f}",
            f"{m.bytes / 1000:.1f}",
            f"{m.sending:.1f}",
            str(m.operations),
            f"{m.loading:.2f}",
        )
        for num, m in measured.items()
    ]
    projection = [
        (
            f"{row['num_gpus']:.0f}",
            f"{row['step_ms']:.2f}",
            f"{row['averaging_ms']:.2f}",
            f"{row['efficiency']:.2f}",
            f"{row['samples_per_second']:,.0f}",
            f"{row['num_workers']:.0f}",
        )
        for row in rows
    ]
    names = ("GPUs", "ms a step", "of it averaging", "least efficiency", "samples a second", "loader processes a GPU")
    return (
        f"Measured on this machine's CPU\n\n{markdown_table(columns, cells)}\n\n"
        f"PROJECTION, not measured: {assumed.launch_us:g} us to launch an operation, {assumed.latency_us:g} us a message, "
        f"{assumed.link:g} GB/s within a machine of {GPUS_PER_MACHINE} GPUs, {assumed.network:g} GB/s between machines\n\n"
        f"{markdown_table(names, projection)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--num-batches", type=int, default=20, help="steps that are timed, after as many that are not")
    for name, value in Assumed()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options, others = parser.parse_known_args()
    if options.num_batches < 2:
        parser.error("--num-batches must be at least 2")
    if options.measure is not None:
        words = ["--config", options.config, *others]
        options.measure.write_text(json.dumps(measure(words, options.num_batches)))
        return
    assumed = Assumed(**{name: getattr(options, name) for name in Assumed()._asdict()})
    measured = {num: run(options.config, num, options.num_batches, others) for num in (1, 2)}
    rows = projected(measured[2], assumed)
    print(report(measured, rows, assumed))
    if options.json is not None:
        content = {"measured": {str(num): m._asdict() for num, m in measured.items()}, "projection": rows}
        options.json.write_text(json.dumps(content | {"assumed": assumed._asdict()}, indent=2))


if __name__ == "__main__":
    main()
