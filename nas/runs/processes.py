"""Several processes that make one run: who they are, and how the first one's folder reaches the others."""

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
"""Seconds that others wait for the first process, which tries everything before it makes the folder."""


class WorkerDone(Exception):
    """The end of a process that is not the first: what follows a training is done by one alone."""

    exit_code = 0


class Averaging(DDPStrategy):
    """Processes that hold equal copies of a module which averages its gradients itself; see :mod:`nas.io.distributed`."""

    def configure_ddp(self) -> None:
        """Leaves the module as it is."""

    def setup_distributed(self) -> None:
        """Meets the others. After torchrun has started all anew, its store still holds the addresses of before.

        So each start has a part of it: with torch 2.14.1 and gloo every restart ended in refused connections otherwise.
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
        rank: Its number; the first writes.
        size: How many there are.
    """

    rank: int
    size: int

    def writing(self, folder: RunFolder) -> AbstractContextManager[None]:
        """The lock of the folder, in the first process."""
        return folder.writing() if self.rank == 0 else nullcontext()

    def folder(self, out: Path | None, make: Callable[[], RunFolder]) -> RunFolder:
        """The run folder, which the first process makes.

        Its path is told through the environment to processes that Lightning starts, and through torchrun's store to those that torchrun
        does. After torchrun has started them anew, it is the folder of before.

        Args:
            out: The folder that the user named; None: none.
            make: Makes it.

        Raises:
            UsageError: It cannot be made, or its path cannot be told.
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
    """How often torchrun has started the processes anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _store() -> dist.TCPStore | None:
    """The store of torchrun's agent, where it runs one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
