"""Searches as trials of Ray Tune, on a cluster of this machine alone or on an existing one."""

from __future__ import annotations

import math
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.io.csv_file import read_columns
from nas.io.json_file import write_json
from nas.launch.trials import OnEvent, Plan, Trial, judged_half, last_line, run_trial, start
from nas.runs.config import load_experiment

# Ray reads these variables when it is imported. The first of _OWN makes all servers of Ray listen on 127.0.0.1 alone;
# the owner of an existing cluster decides where that cluster listens.
_OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
_ALWAYS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer output prints tables at every verbosity
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command line has its own
}
POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0
REDUCTION = 3


@dataclass
class RayTune:
    """Runs each search as a trial of Ray Tune; a search that fails, or whose node is lost, continues from its checkpoint.

    Args:
        num_parallel: Searches at once; None: as many as the resources allow.
        max_failures: How often a search may fail or lose its node.
        address: Address of the cluster's head, which shares this file system; None: a cluster of this machine
            alone that ends with the launch.
        asha: Stop searches of high loss early, by asynchronous successive halving.
        num_cpus: CPUs of a search.
        num_gpus: GPUs of a search; None: one if the cluster has any.
    """

    num_parallel: int | None
    max_failures: int
    address: str | None = None
    asha: bool = False
    num_cpus: int = 1
    num_gpus: int | None = None

    def run(self, plan: Plan, trials: Sequence[Trial], on_event: OnEvent) -> dict[str, str]:
        """Runs the unfinished trials; returns name -> reason of each failed trial.

        Raises:
            ConnectionError: No cluster answers at the address.
        """
        plan = plan._replace(folder=plan.folder.absolute())
        by_name = {trial.name: trial for trial in plan.unfinished(trials)}
        if not by_name:
            return {}
        with _cluster(self.address):
            return self._run(plan, by_name, on_event)

    def _run(self, plan: Plan, by_name: Mapping[str, Trial], on_event: OnEvent) -> dict[str, str]:
        import ray
        from ray import tune

        directory = os.getcwd()

        def search(config: dict[str, Any]) -> None:
            os.chdir(directory)
            _search(plan, by_name[config["name"]])

        num_gpus = self.num_gpus
        if num_gpus is None:
            num_gpus = int(ray.cluster_resources().get("GPU", 0) >= 1)
        results = tune.Tuner(
            tune.with_resources(search, {"cpu": self.num_cpus, "gpu": num_gpus}),
            param_space={"name": tune.grid_search(list(by_name))},
            tune_config=tune.TuneConfig(
                scheduler=_asha(plan) if self.asha else None,
                max_concurrent_trials=self.num_parallel,
                reuse_actors=False,  # the process of a stopped search ends with its actor
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d_%H%M%S"),
                storage_path=str(plan.folder / "tune"),
                failure_config=tune.FailureConfig(max_failures=self.max_failures),
                callbacks=[_reporter(plan, by_name, on_event)],
                verbose=0,
            ),
        ).fit()
        ended = [results[i] for i in range(len(results))]
        errors = {result.config["name"]: result.error for result in ended if result.config is not None}
        failed = {}
        for trial in plan.unfinished(list(by_name.values())):
            error = errors.get(trial.name) or RuntimeError("the search did not run")
            failed[trial.name] = last_line(str(error), type(error).__name__)
        return failed


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    settings = _ALWAYS if address is not None else {**_ALWAYS, **_OWN, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import ray

    options: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
    options |= {"log_to_driver": False, "logging_level": "error"}
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()


def _search(plan: Plan, trial: Trial) -> None:
    """Runs in a worker: starts the search as a process and reports its epochs."""
    from ray import tune

    def reported(words: list[str], log: Path) -> int:
        process, num_reported = start(words, log), 0
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                for report in epochs(plan.run(trial).metrics_csv)[num_reported:]:
                    tune.report(report)
                    num_reported += 1
            return process.returncode
        finally:
            if process.poll() is None:  # the scheduler stopped the trial: the search saves and ends
                process.terminate()
                process.wait(GRACE_SECONDS)

    run_trial(plan, trial, reported)


def epochs(path: Path) -> list[dict[str, float]]:
    """The values that a scheduler receives for each epoch of a search: its number from 1, and the loss of the arch split.

    While alpha is frozen, the loss is that of the train split. All searches are compared at the same epoch.
    """
    try:
        rows = [row for _, row in read_columns(path)]
    except (OSError, ValueError):  # the file does not exist yet, or is being written
        return []
    return [{"epoch": row["epoch"] + 1, "loss": row.get(f"{judged_half(row)}/loss", math.inf)} for row in rows]


def _asha(plan: Plan) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    num_epochs = load_experiment(plan.source).trainer.max_epochs
    return ASHAScheduler(
        time_attr="epoch",
        metric="loss",
        mode="min",
        max_t=num_epochs + 1,  # the last epoch stops no search
        grace_period=max(1, num_epochs // REDUCTION**2),
        reduction_factor=REDUCTION,
    )


def _reporter(plan: Plan, by_name: Mapping[str, Trial], on_event: OnEvent) -> Any:
    from ray import tune

    class Reporter(tune.Callback):
        """Passes on the states of trials, and notes which trials the scheduler stopped."""

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            on_event(by_name[trial.config["name"]], "running")

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            on_event(by_name[trial.config["name"]], "continuing after a failure")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            on_event(by_name[trial.config["name"]], "failed")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ours = by_name[trial.config["name"]]
            if not plan.unfinished([ours]):
                on_event(ours, "finished")
                return
            num_epochs = int(trial.last_result.get("epoch", 0))
            plan.stopped(ours).parent.mkdir(exist_ok=True)
            write_json(plan.stopped(ours), {"epochs": num_epochs})
            on_event(ours, f"stopped after {num_epochs} epochs")

    return Reporter()
