"""Several processes of one run: their ranks, and how the first process sends the run folder's path to the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from nas.io.errors import UsageError
from nas.runs.folder import RunFolder

FOLDER = "NAS_RUN_FOLDER"
PATIENCE = 600
"""Seconds that the other processes wait while the first process checks the run and makes the folder."""


class WorkerDone(Exception):
    """Ends all processes except the first after a training; only the first process continues."""

    exit_code = 0


class Averaging(DDPStrategy):
    """A strategy for modules that average their gradients without Lightning; see :mod:`nas.io.distributed`."""

    def configure_ddp(self) -> None:
        """Leaves the module as it is."""

    def setup_distributed(self) -> None:
        """Joins the other processes, with a separate prefix in torchrun's store for each start.

        After a restart, the store still holds the old addresses: with torch 2.14.1 and gloo, connections were refused after every restart.
        """
        store = _store()
        if store is not None and not dist.is_initialized():
            mine = dist.PrefixStore(f"{FOLDER}/start {_num_restarts()}", store)
            self.set_world_ranks()
            backend = self._get_process_group_backend()
            dist.init_process_group(backend, store=mine, rank=self.global_rank, world_size=self.world_size)
        super().setup_distributed()


class Processes(NamedTuple):
    """The rank of this process and the number of processes. Rank 0 writes the files."""

    rank: int
    size: int

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Processes:
        """Rank and number of the processes of a Trainer."""
        return cls(trainer.global_rank, trainer.world_size)

    def writing(self, folder: RunFolder) -> AbstractContextManager[None]:
        """Locks the folder, in the first process only."""
        return folder.writing() if self.rank == 0 else nullcontext()

    def folder(self, out: Path | None, make: Callable[[], RunFolder]) -> RunFolder:
        """The run folder; the first process calls `make`. `out` is the folder that the user named.

        The path reaches processes of Lightning through the environment, and processes of torchrun through its store. A restart by torchrun
        keeps the folder.

        Raises:
            UsageError: The folder cannot be made, or its path does not reach the other processes.
        """
        if self.size == 1:
            return make()
        store, key = _store(), f"{FOLDER}/{os.environ.get('TORCHELASTIC_RUN_ID', '')}"
        if self.rank == 0:
            if _num_restarts():
                known = store.get(key).decode() if store is not None and store.check([key]) else out
                folder = make() if known is None or not Path(known).exists() else RunFolder.open(known)
            else:
                folder = make()
            os.environ[FOLDER] = str(folder.path)
            if store is not None:
                store.set(key, str(folder.path))
            return folder
        path = os.environ.get(FOLDER) or (store.get(key).decode() if store is not None else out)
        if path is None:
            raise UsageError("a run on several nodes needs --out DIR, a folder that all nodes can access")
        folder, end = RunFolder(path), time.monotonic() + PATIENCE
        while not folder.config.exists():
            if time.monotonic() > end:
                raise UsageError(f"{folder.shown}: the first process has not made the folder within {PATIENCE} s")
            time.sleep(0.1)
        return folder


def _num_restarts() -> int:
    """The number of restarts by torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _store() -> dist.TCPStore | None:
    """The store of torchrun's agent; None without torchrun."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
