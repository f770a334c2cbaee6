"""Searches as jobs of SLURM, through submitit."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from nas.launch.trials import OnEvent, Plan, Trial, run_trial, start

GRACE_SECONDS = 60
POLL_SECONDS = 1.0


class Job(submitit.helpers.Checkpointable):
    """One trial as a job, which is queued again when it is preempted or its time is over."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, plan: Plan, trial: Trial) -> None:
        """Runs the trial."""
        run_trial(plan, trial, self._run)

    def checkpoint(self, plan: Plan, trial: Trial) -> submitit.helpers.DelayedSubmission:
        """Has the search save and stop; the new job goes on with it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            _wait_for(self._process.pid)
        return submitit.helpers.DelayedSubmission(Job(), plan, trial)

    def _run(self, words: list[str], log: Path) -> int:
        self._process = start(words, log)
        return self._process.wait()


def _wait_for(pid: int) -> None:
    """Waits for a child without taking its exit code: the code that the signal has interrupted holds Popen's lock."""
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end:
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
        except ChildProcessError:
            return
        time.sleep(0.05)


class Slurm:
    """Submits every trial as a job, and waits for all.

    Args:
        max_failures: How often a search may fail before it is given up; being preempted is no failure.
        cluster: ``slurm``, or ``local`` for processes of this machine.
        **parameters: As for ``submitit.AutoExecutor.update_parameters``, for example timeout_min, slurm_partition, gpus_per_node.
    """

    def __init__(self, max_failures: int, cluster: str = "slurm", **parameters: Any) -> None:
        self.max_failures = max_failures
        self.cluster = cluster
        self.parameters = parameters

    def run(self, plan: Plan, trials: Sequence[Trial], on_event: OnEvent) -> dict[str, str]:
        """Runs all; returns why some failed."""
        (plan.folder / "jobs").mkdir(exist_ok=True)
        # a folder of its own: submitit unpickles results, and those of somebody else's launch may lie beside it
        jobs_folder = tempfile.mkdtemp(dir=plan.folder / "jobs", prefix=time.strftime("%Y%m%d_%H%M%S."))
        os.environ["PYTHONSAFEPATH"] = "1"  # submitit starts jobs by -m; see nas.io.parent.python_command
        executor = submitit.AutoExecutor(jobs_folder, cluster=self.cluster)
        executor.update_parameters(name=plan.folder.name, **self.parameters)
        jobs = [(trial, executor.submit(Job(), plan, trial)) for trial in plan.unfinished(trials)]
        failures = dict.fromkeys((trial.name for trial, _ in jobs), 0)
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
                reason = str(error).strip().splitlines()[-1]
                on_event(trial, reason)
                failures[trial.name] += 1
                if failures[trial.name] > self.max_failures:
                    failed[trial.name] = reason
                else:
                    jobs.append((trial, executor.submit(Job(), plan, trial)))
        return failed
