"""Writes time, throughput and memory to system.csv and TensorBoard. These values differ between equal runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nas.callbacks.writers import write_scalars
from nas.io.csv_file import CsvFile


class SystemWriter(Callback):
    """Writes one row for each epoch: seconds of training, batches per second, peak memory (GB) of the GPU or the process."""

    def __init__(self, path: Path) -> None:
        self.file = CsvFile(path)
        self.seconds = 0.0
        self._start = 0.0
        self._epoch_start = 0.0
        self._epoch_first = 0

    def state_dict(self) -> dict[str, float]:
        """The seconds so far, so that a resumed run reports its total time."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._start = time.perf_counter() - self.seconds
        self._begin(pl_module)
        if trainer.is_global_zero:
            self.file.cut_after(pl_module.num_batches_done)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        now = time.perf_counter()
        self.seconds = now - self._start
        rate = (pl_module.num_batches_done - self._epoch_first) / max(now - self._epoch_start, 1e-9)
        if trainer.is_global_zero:
            memory = peak_memory_gb(pl_module.device)
            row = {"seconds": self.seconds, "batches_per_second": rate, "peak_memory_gb": memory}
            self.file.append(pl_module.num_batches_done, row)
            scalars = {f"system/{name}": value for name, value in row.items()}
            write_scalars(trainer, scalars, pl_module.num_batches_done)
        self._begin(pl_module)

    def _begin(self, pl_module: Any) -> None:
        self._epoch_start = time.perf_counter()
        self._epoch_first = pl_module.num_batches_done


def peak_memory_gb(device: torch.device) -> float | None:
    """Peak memory in 1e9 bytes: allocated GPU memory, otherwise resident memory of this process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
