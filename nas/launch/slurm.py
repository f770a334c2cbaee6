"""Searches as jobs of SLURM, through submitit."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from nas.launch.trials import OnEvent, Plan, Trial, last_line, run_trial, start

GRACE_SECONDS = 60
POLL_SECONDS = 1.0


class Job(submitit.helpers.Checkpointable):
    """One trial as a job; SLURM queues it again when it is preempted or reaches its time limit."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, plan: Plan, trial: Trial) -> None:
        """Runs the trial."""
        run_trial(plan, trial, self._run)

    def checkpoint(self, plan: Plan, trial: Trial) -> submitit.helpers.DelayedSubmission:
        """Stops the search after it has saved; the new job continues it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            _wait_for(self._process.pid)
        return submitit.helpers.DelayedSubmission(Job(), plan, trial)

    def _run(self, words: list[str], log: Path) -> int:
        self._process = start(words, log)
        return self._process.wait()


def _wait_for(pid: int) -> None:
    """Waits for a child without taking its exit code: the code that the signal interrupted may hold the lock of Popen."""
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end:
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
        except ChildProcessError:
            return
        time.sleep(0.05)


class Slurm:
    """Submits a job for each trial and waits for all jobs.

    Args:
        max_failures: How often a search may fail; a preemption is no failure.
        cluster: ``slurm``, or ``local`` for processes of this machine.
        **parameters: Arguments of ``submitit.AutoExecutor.update_parameters``, for example timeout_min, slurm_partition, gpus_per_node.
    """

    def __init__(self, max_failures: int, cluster: str = "slurm", **parameters: Any) -> None:
        self.max_failures = max_failures
        self.cluster = cluster
        self.parameters = parameters

    def run(self, plan: Plan, trials: Sequence[Trial], on_event: OnEvent) -> dict[str, str]:
        """Runs the unfinished trials; returns name -> reason of each failed trial."""
        (plan.folder / "jobs").mkdir(exist_ok=True)
        # a new folder: submitit unpickles results, and another user's results may be in an old folder
        jobs_folder = tempfile.mkdtemp(dir=plan.folder / "jobs", prefix=time.strftime("%Y%m%d_%H%M%S."))
        os.environ["PYTHONSAFEPATH"] = "1"  # submitit starts jobs with -m; see nas.io.parent.python_command
        executor = submitit.AutoExecutor(jobs_folder, cluster=self.cluster)
        executor.update_parameters(name=plan.folder.name, **self.parameters)
        jobs = [(trial, executor.submit(Job(), plan, trial)) for trial in plan.unfinished(trials)]
        failures: Counter[str] = Counter()
        failed: dict[str, str] = {}
        for trial, job in jobs:
            on_event(trial, f"submitted as job {job.job_id}")
        while jobs:
            time.sleep(POLL_SECONDS)
            for trial, job in list(jobs):
                if not job.done():
                    continue
                jobs.remove((trial, job))
                if (error := job.exception()) is None:
                    on_event(trial, "finished")
                    continue
                reason = last_line(str(error), type(error).__name__)
                on_event(trial, reason)
                failures[trial.name] += 1
                if failures[trial.name] > self.max_failures:
                    failed[trial.name] = reason
                else:
                    jobs.append((trial, executor.submit(Job(), plan, trial)))
        return failed
