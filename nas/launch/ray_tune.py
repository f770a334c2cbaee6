"""Searches as trials of Ray Tune, on a cluster of this machine's own or on one that is there."""

from __future__ import annotations

import math
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nas.io.csv_file import read_columns
from nas.io.json_file import write_json
from nas.launch.trials import OnEvent, Plan, Trial, judged_half, run_trial, start
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource

# read when ray is imported. The first has every server of Ray listen on 127.0.0.1 alone; a cluster that is there listens as it was told.
_EMBEDDED = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
_ALWAYS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer one prints tables whatever it is told
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command line has its own
}
POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0
REDUCTION = 3


class RayTune:
    """Hands every search to Ray Tune, which starts one that failed, or whose node was lost, anew: it goes on from its checkpoint.

    Args:
        num_parallel: Searches at once; None: as many as there are resources for.
        max_failures: How often one may fail, or lose its node, before it is given up.
        address: Of the cluster's head, which shares this file system; None: a cluster of this machine
            alone, for the time of the launch.
        asha: Stop searches whose loss is high early, by asynchronous successive halving.
        num_cpus: CPUs of a search.
        num_gpus: GPUs of a search; None: one where the cluster has any.
    """

    def __init__(
        self,
        num_parallel: int | None,
        max_failures: int,
        *,
        address: str | None = None,
        asha: bool = False,
        num_cpus: int = 1,
        num_gpus: int | None = None,
    ) -> None:
        self.num_parallel = num_parallel
        self.max_failures = max_failures
        self.address = address
        self.asha = asha
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus

    def run(self, plan: Plan, trials: Sequence[Trial], on_event: OnEvent) -> dict[str, str]:
        """Runs all; returns why some failed.

        Raises:
            ConnectionError: There is no cluster at the address.
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
                reuse_actors=False,  # so that a stopped search's process ends with its actor
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d_%H%M%S"),
                storage_path=str(plan.folder / "tune"),
                failure_config=tune.FailureConfig(max_failures=self.max_failures),
                callbacks=[_teller(plan, by_name, on_event)],
                verbose=0,
            ),
        ).fit()
        ended = [results[i] for i in range(len(results))]
        reasons = {result.config["name"]: result.error for result in ended if result.config is not None}
        missing = RuntimeError("it was not run")
        return {
            trial.name: _last_line(reasons.get(trial.name) or missing)
            for trial in plan.unfinished(list(by_name.values()))
        }


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    settings = {**_ALWAYS, **({} if address is not None else {**_EMBEDDED, "RAY_AUTH_TOKEN": secrets.token_hex(32)})}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is not None:
        ray.init(address=address, **quiet)
    else:
        ray.init(include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _search(plan: Plan, trial: Trial) -> None:
    """What a worker does: the search as a process of its own, watched."""
    from ray import tune

    def watched(words: list[str], log: Path) -> int:
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
            if process.poll() is None:  # it was stopped: what it has is kept
                process.terminate()
                process.wait(GRACE_SECONDS)

    run_trial(plan, trial, watched)


def epochs(path: Path) -> list[dict[str, float]]:
    """What a scheduler hears of each epoch of a search: its number from 1, and the loss of the arch half.

    While alpha rests it is the weight half's; all searches are judged at the same epoch.
    """
    try:
        rows = [row for _, row in read_columns(path)]
    except (OSError, ValueError):  # not there yet, or being written
        return []
    return [{"epoch": row["epoch"] + 1, "loss": row.get(f"{judged_half(row)}/loss", math.inf)} for row in rows]


def _asha(plan: Plan) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    num_epochs = load_experiment(ConfigSource((plan.config,), (), plan.trusted)).trainer.max_epochs
    return ASHAScheduler(
        time_attr="epoch",
        metric="loss",
        mode="min",
        max_t=num_epochs + 1,  # the last epoch stops nobody
        grace_period=max(1, num_epochs // REDUCTION**2),
        reduction_factor=REDUCTION,
    )


def _teller(plan: Plan, by_name: Mapping[str, Trial], on_event: OnEvent) -> Any:
    from ray import tune

    class Teller(tune.Callback):
        """Says what becomes of trials, and notes which ones the scheduler stopped."""

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            on_event(by_name[trial.config["name"]], "running")

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            on_event(by_name[trial.config["name"]], "going on after a failure")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            on_event(by_name[trial.config["name"]], "failed")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            mine = by_name[trial.config["name"]]
            if not plan.unfinished([mine]):
                on_event(mine, "finished")
                return
            num_epochs = int(trial.last_result.get("epoch", 0))
            plan.stopped(mine).parent.mkdir(exist_ok=True)
            write_json(plan.stopped(mine), {"epochs": num_epochs})
            on_event(mine, f"stopped after {num_epochs} epochs")

    return Teller()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
