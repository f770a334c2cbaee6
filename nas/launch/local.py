"""Searches as processes on this machine."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from nas.launch.trials import OnEvent, Plan, Trial, run_trial, start


@dataclass
class Local:
    """Runs searches in parallel processes; a search that fails or is killed continues from its checkpoint.

    Args:
        num_parallel: Searches at once.
        max_failures: How often a search may fail.
    """

    num_parallel: int
    max_failures: int
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _stopped: bool = field(default=False, init=False)

    def run(self, plan: Plan, trials: Sequence[Trial], on_event: OnEvent) -> dict[str, str]:
        """Runs the unfinished trials; returns name -> reason of each failed trial."""
        failed: dict[str, str] = {}

        def one_at_a_time(trial: Trial, state: str) -> None:
            with self._lock:
                on_event(trial, state)

        with ThreadPoolExecutor(self.num_parallel) as pool:
            futures = {
                pool.submit(self._attempts, plan, trial, one_at_a_time): trial for trial in plan.unfinished(trials)
            }
            try:
                for future in as_completed(futures):
                    if (reason := future.result()) is not None:
                        failed[futures[future].name] = reason
            except BaseException:  # a signal: running searches save and stop, and no other search starts
                with self._lock:
                    self._stopped = True
                    for process in self._running:
                        process.terminate()
                pool.shutdown(cancel_futures=True)
                raise
        return failed

    def _attempts(self, plan: Plan, trial: Trial, on_event: OnEvent) -> str | None:
        """Runs a trial until it is finished; returns the reason of a failure, or None."""
        on_event(trial, "running")
        failures = 0
        while True:
            try:
                run_trial(plan, trial, self._process)
            except Exception as error:
                on_event(trial, str(error))
                failures += 1
                if self._stopped or failures > self.max_failures:
                    return str(error)
            else:
                on_event(trial, "finished")
                return None

    def _process(self, words: list[str], log: Path) -> int:
        with self._lock:
            if self._stopped:
                raise RuntimeError("stopped")
            process = start(words, log, start_new_session=True)
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code
