"""Latency of modules on a device, measured once and cached in a file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.costs.functions import latency_ms
from nas.costs.module_key import call_key, module_key
from nas.io.files import write_atomic
from nas.io.reading import MAX_LATENCY_BYTES, read_text

MIN_SECONDS = 0.05
"""Shortest measurement of a module."""


class NotProfiled(ValueError):
    """The latency was not measured on this device."""


class MeasuredLatency:
    """A cost function: the latency of a module in milliseconds, from the cache file or measured.

    An unreadable cache file counts as empty. `measure` allows measuring missing latencies.

    Attributes:
        device: Name of the device, with the number of threads for a CPU.
        path: The cache file.
        num_measured: Number of modules that were measured instead of read from the file.
    """

    def __init__(self, device: torch.device, *, measure: bool) -> None:
        self.device = device_name(device)
        self.path = cache_folder() / f"{re.sub(r'[^A-Za-z0-9]+', '_', self.device).strip('_')}.json"
        self.measure = measure
        self.num_measured = 0
        self._known = _read(self.path)

    def __call__(self, module: nn.Module, inputs: Sequence[Any]) -> float:
        """Milliseconds of one call in eval mode.

        Raises:
            NotProfiled: The latency is not in the file, and measuring is not allowed.
        """
        text = f"{torch.__version__}\n{module_key(module)}\n{call_key(tuple(inputs))}"
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        if key not in self._known:
            if not self.measure:
                raise NotProfiled(f"not measured on this device ({self.device})")
            self._known[key] = latency_ms(module, inputs, min_seconds=MIN_SECONDS)
            self.num_measured += 1
        return self._known[key]

    def save(self) -> None:
        """Writes the file atomically, including new entries of other processes; warns if the file cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps({**_read(self.path), **self._known}, indent=0) + "\n")
        except OSError as error:
            warnings.warn(f"latencies are not saved: {self.path} cannot be written ({error.strerror})", stacklevel=2)


def device_name(device: torch.device) -> str:
    """The model of a device, with the number of threads for a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{platform.machine()} {device.type}"
    number = torch.get_num_threads()
    return f"{_cpu_model()}, {number} thread{'s' if number > 1 else ''}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def cache_folder() -> Path:
    """The folder of measurements: ``$XDG_CACHE_HOME/gumbel-nas/latency``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "gumbel-nas" / "latency"


def _read(path: Path) -> dict[str, float]:
    try:
        content = json.loads(read_text(path, MAX_LATENCY_BYTES))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, float) and 0 < value < float("inf")}
