"""Searches that are killed, terminated or out of disk space, and are resumed."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from child import Child, command

from nas.io import checkpoint_io

GUMBEL_DIGITS = Path(__file__).parents[2] / "configs" / "dilation_gumbel_digits.yaml"
CHANGES: dict[str, dict[str, Any]] = {
    "trainer": {"max_epochs": 4, "accelerator": "cpu", "num_threads": 1, "checkpoint_seconds": 0, "num_images": 2},
    "model": {"warmup_epochs": 1},
    "retrain": {"trainer": {"max_epochs": 2}},
}
SIZES = {"num_layers": 2, "channels": 4, "dilations": [1, 8]}

NUM_SEEDS = 10


class Reference:
    """The undisturbed run of a seed.

    Attributes:
        folder: Its folder.
        first_checkpoint, total: Seconds to the first checkpoint, and to the end.
    """

    def __init__(self, folder: Path, seed: int, num_workers: int) -> None:
        """Runs it."""
        self.folder = folder
        folder.mkdir(parents=True)
        values = {**yaml.safe_load(GUMBEL_DIGITS.read_text()), "seed_everything": seed}
        values |= {section: {**values[section], **changes} for section, changes in CHANGES.items()}
        values["model"]["space"]["init_args"] |= SIZES
        values["data"]["init_args"] |= {"batch_size": 50, "num_workers": num_workers}
        self.config = folder / "small.yaml"
        self.config.write_text(yaml.safe_dump(values))
        self.run = folder / "whole"
        child = Child(command(["search", "--config", self.config, "--out", self.run]), folder)
        start = time.monotonic()
        child.wait_for((self.run / "checkpoints" / "last.ckpt").exists)
        self.first_checkpoint = time.monotonic() - start
        ended = child.end()
        if ended.code != 0:
            raise RuntimeError(f"the undisturbed run failed: {ended.said}")
        self.total = ended.seconds

    def differences(self, run: Path) -> list[str]:
        """Names of files and checkpoint entries in which another run of the seed differs."""
        found = [
            name
            for name in ("metrics.csv", "genotype.json", "config.yaml")
            if (run / name).read_bytes() != (self.run / name).read_bytes()
        ]
        mine, other = (checkpoint_io.load(r / "checkpoints" / "last.ckpt", fall_back=False) for r in (self.run, run))
        return found + list(_differences(mine, other, "checkpoint"))


def _differences(a: Any, b: Any, place: str) -> Iterator[str]:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if not torch.equal(a, b):
            yield place
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            if key not in ("SystemWriter", "loops"):  # times; Lightning's own counters
                yield from _differences(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{place}[{i}]")
    elif a != b:
        yield place


def go_on(reference: Reference, run: Path) -> list[str]:
    """Resumes a run, or starts it again where it has no folder; returns what is wrong with the result."""
    words: list[str | Path] = ["search", "--resume", run]
    if not run.exists():
        words = ["search", "--config", reference.config, "--out", run]
    ended = Child(command(words), reference.folder).end()
    if ended.code != 0:
        return [f"exit code {ended.code}: {ended.said.strip()[-300:]}"]
    return reference.differences(run)


@cache
def reference_of(folder: Path, seed: int, num_workers: int) -> Reference:
    """The undisturbed run of a seed, made once."""
    return Reference(folder / f"{num_workers}-{seed}", seed, num_workers)


def references(folder: Path, num_workers: int, num: int) -> list[Reference]:
    """The undisturbed runs for a number of trials, at most one a seed."""
    return [reference_of(folder, seed, num_workers) for seed in range(min(NUM_SEEDS, num))]


def kills(folder: Path, num_workers: int, num: int, num_before: int, draw: random.Random) -> list[str]:
    """Kills at random moments after the first checkpoint, and some before it; returns what went wrong."""
    known = references(folder, num_workers, num + num_before)
    wrong = []
    for trial in range(num + num_before):
        reference = known[trial % len(known)]
        run = reference.folder / f"cut{trial}"
        child = Child(command(["search", "--config", reference.config, "--out", run]), reference.folder)
        if trial < num:
            child.wait_for((run / "checkpoints" / "last.ckpt").exists)
            time.sleep(draw.uniform(0, 0.95 * (reference.total - reference.first_checkpoint)))
        else:
            time.sleep(draw.uniform(0, 0.95 * reference.first_checkpoint))
        child.kill()
        child.end()
        wrong += [f"trial {trial}: {line}" for line in go_on(reference, run)]
        shutil.rmtree(run, ignore_errors=True)
    return wrong


def kills_of_commands(folder: Path, num: int, draw: random.Random) -> list[str]:
    """Kills processes of the real command line."""
    reference = reference_of(folder, 0, 0)
    wrong = []
    for trial in range(num):
        run = reference.folder / f"command{trial}"
        words = [sys.executable, "-m", "nas", "search"]
        process = subprocess.Popen(
            [*words, "--config", str(reference.config), "--out", str(run)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not (run / "checkpoints" / "last.ckpt").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.9 * (reference.total - reference.first_checkpoint)))
        process.kill()
        process.wait()
        done = subprocess.run([*words, "--resume", str(run)], capture_output=True, text=True, check=False)
        lines = [done.stderr[-300:]] if done.returncode else reference.differences(run)
        wrong += [f"trial {trial}: {line}" for line in lines]
    return wrong


def terminations(folder: Path, num: int, draw: random.Random) -> list[str]:
    """SIGTERM at random moments: exit code 143, every finished batch is saved, and the resumed run is equal."""
    known = references(folder, 0, num)
    wrong = []
    for trial in range(num):
        reference = known[trial % len(known)]
        run = reference.folder / f"stopped{trial}"
        child = Child(command(["search", "--config", reference.config, "--out", run]), reference.folder)
        time.sleep(draw.uniform(0.05, 0.9) * reference.total)
        done = child.count
        child.kill(signal.SIGTERM)
        ended = child.end()
        too_late = ended.code == 0 and (run / "manifest.json").exists()
        lines = [] if ended.code == 143 or too_late else [f"exit code {ended.code}: {ended.said.strip()[-300:]}"]
        checkpoint = run / "checkpoints" / "last.ckpt"
        kept = checkpoint_io.load(checkpoint)["num_batches_done"] if checkpoint.exists() else 0
        if kept < done:
            lines.append(f"{done} batches were done, {kept} are kept")
        wrong += [f"trial {trial}: {line}" for line in [*lines, *go_on(reference, run)]]
        shutil.rmtree(run, ignore_errors=True)
    return wrong


def full_disks(folder: Path, num: int) -> list[str]:
    """A limit of file sizes stands for a full disk: the run fails with a message; resumed without the limit, it is equal."""
    reference = reference_of(folder, 0, 0)
    largest = max(path.stat().st_size for path in reference.run.rglob("*") if path.is_file())
    wrong = []
    for trial in range(num):
        run = reference.folder / f"full{trial}"
        limit = largest * (trial + 1) // (num + 1)
        words = command(["search", "--config", reference.config, "--out", run])
        ended = Child(words, reference.folder, limit_bytes=limit).end()
        lines = []
        if ended.code != 0 and "File too large" not in ended.said:
            lines.append(f"exit code {ended.code}: {ended.said.strip()[-300:]}")
        if ended.code == 0 and limit < (run / "checkpoints" / "last.ckpt").stat().st_size:
            lines.append("a full disk went unnoticed")
        wrong += [f"{limit} bytes: {line}" for line in [*lines, *go_on(reference, run)]]
        shutil.rmtree(run, ignore_errors=True)
    return wrong


def kills_while_writing(folder: Path, num: int, elsewhere: bool, draw: random.Random) -> list[str]:
    """Kills while a checkpoint is written; TMPDIR is on the same file system or on another."""
    tensor = torch.zeros(200_000)
    wrong = []
    for trial in range(num):
        path = folder / f"writing{int(elsewhere)}-{trial}" / "last.ckpt"
        path.parent.mkdir(parents=True)

        child = Child(_writer(path, tensor, "/dev/shm" if elsewhere else str(path.parent)), path.parent)
        child.wait_for(path.exists)
        time.sleep(draw.uniform(0, 0.05))
        child.kill()
        child.end()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a warning that the previous checkpoint is used
                step = checkpoint_io.load(path)["step"]
        except ValueError as error:
            wrong.append(f"trial {trial}: unreadable: {error}")
        else:
            if step < child.count:
                wrong.append(f"trial {trial}: {child.count} was written, {step} is there")
        shutil.rmtree(path.parent)
    return wrong


def _writer(path: Path, tensor: torch.Tensor, temporary: str) -> Callable[[Child], int]:
    def write(child: Child) -> int:
        tempfile.tempdir = temporary
        step = 0
        while True:
            step += 1
            checkpoint_io.save({"step": step, "tensor": tensor}, path)
            child.report(step)

    return write
