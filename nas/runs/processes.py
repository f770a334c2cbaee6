"""Several processes of one run: their ranks, and the way of the run folder's path from the first to the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from nas.io.errors import UsageError
from nas.runs.folder import RunFolder

FOLDER = "NAS_RUN_FOLDER"
PATIENCE = 600
"""Seconds that others wait for the first process, which makes the folder after all checks."""


class WorkerDone(Exception):
    """The end of every process but the first, which alone works after a training."""

    exit_code = 0


class Averaging(DDPStrategy):
    """Processes that hold equal copies of a module which averages its gradients itself; see :mod:`nas.io.distributed`."""

    def configure_ddp(self) -> None:
        """Leaves the module as it is."""

    def setup_distributed(self) -> None:
        """Joins the other processes, with a part of torchrun's store for each start.

        After a restart the store still holds the old addresses: with torch 2.14.1 and gloo, every restart ended in refused connections.
        """
        store = _store()
        if store is not None and not dist.is_initialized():
            mine = dist.PrefixStore(f"{FOLDER}/start {_num_restarts()}", store)
            self.set_world_ranks()
            backend = self._get_process_group_backend()
            dist.init_process_group(backend, store=mine, rank=self.global_rank, world_size=self.world_size)
        super().setup_distributed()


class Processes(NamedTuple):
    """This process among those of a run.

    Attributes:
        rank: Its number; number 0 writes.
        size: The number of processes.
    """

    rank: int
    size: int

    def writing(self, folder: RunFolder) -> AbstractContextManager[None]:
        """The lock of the folder, in the first process."""
        return folder.writing() if self.rank == 0 else nullcontext()

    def folder(self, out: Path | None, make: Callable[[], RunFolder]) -> RunFolder:
        """The run folder, which the first process makes by `make`; `out` is the folder that the user named.

        Processes that Lightning starts get its path through the environment, and processes of torchrun through its store. After a
        restart by torchrun, the folder is the same.

        Raises:
            UsageError: The folder cannot be made, or its path does not reach the others.
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
            raise UsageError("several nodes need --out DIR, a folder that all of them reach")
        folder, end = RunFolder(path), time.monotonic() + PATIENCE
        while not folder.config.exists():
            if time.monotonic() > end:
                raise UsageError(f"{folder.shown}: the first process has not made it within {PATIENCE} s")
            time.sleep(0.1)
        return folder


def _num_restarts() -> int:
    """The number of restarts by torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _store() -> dist.TCPStore | None:
    """The store of torchrun's agent; None without one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
