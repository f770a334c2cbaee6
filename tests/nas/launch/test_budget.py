"""Equal budgets: epochs for all, or a cost that the measured times give."""

import json

import pytest
from made_up_launch import write_launch

from nas.io.errors import UsageError
from nas.io.json_file import read_json, write_json
from nas.launch import budget
from nas.launch.budget import calibrate, read_epochs
from nas.launch.launch import DOCUMENT, LAUNCH, read_launch
from nas.launch.options import parse_budget
from nas.launch.trials import Trial
from nas.runs.options import ConfigSource

METHODS = {"own": {}, "fast": {"model.tau": "nas.tau.Linear"}}


class Finished:
    """An engine whose searches have ended, with chosen times."""

    def __init__(self, times, failed=()):
        self.times, self.failed, self.names = times, dict(failed), []

    def run(self, plan, trials, on_event):
        self.names += [trial.name for trial in trials]
        for trial in trials:
            run, (search, derive, training) = plan.run(trial), self.times[trial.method]
            write_json(run.path / "summary.json", {**SUMMARY, "search_seconds": search, "derive_seconds": derive})
            write_json(run.path / "retrain/summary.json", {**SUMMARY, "stage": "retrain", "train_seconds": training})
        return self.failed


SUMMARY = {"stage": "search", "genotype": {}, "metric": {"name": "accuracy", "value": 0.5, "split": "arch"}}


@pytest.fixture
def made(tmp_path, config):
    plan, trials, _ = write_launch(tmp_path / "all", METHODS, [3, 4])
    plan.config.write_text(config().read_text())
    for trial in trials:
        (tmp_path / "all/calibration/trials" / trial.name / "retrain").mkdir(parents=True)
    return plan, trials


def test_the_epochs_make_all_searches_as_long_as_the_trainings(made):
    plan, trials = made
    engine = Finished({"own": (33.0, 3.0, 4.0), "fast": (6.0, 0.0, 2.0)})
    configured = ConfigSource((plan.config,)).contents[0]["trainer"]["max_epochs"]
    found = calibrate(plan, trials, 5.0, engine, lambda *_: None)
    assert engine.names == ["own_seed3", "fast_seed3"]  # the first seed of each method
    seconds = 5.0 * (4.0 + 2.0) / 2
    assert found == {"own": max(1, round((seconds - 3) / (30 / configured))), "fast": round(seconds / (6 / configured))}
    assert read_epochs(plan.folder, trials) == found
    about = read_json(plan.folder / LAUNCH, "")
    DOCUMENT.save(
        plan.folder / LAUNCH, {**{k: about[k] for k in ("retrain", "num_baseline", "trials")}, "trainings": 5.0}
    )
    again = read_launch(plan.folder, ())
    assert again.trainings == 5.0
    for trial in again.trials:
        assert trial.words()[-2:] == [f"--trainer.max_epochs={found[trial.method]}", f"--seed_everything={trial.seed}"]


def test_what_cannot_be_calibrated_is_an_error(made):
    plan, trials = made
    with pytest.raises(RuntimeError, match=r"fast derives for 9\.0 s, which is more than the budget of 2\.0 s"):
        calibrate(plan, trials, 1.0, Finished({"own": (9.0, 0.0, 2.0), "fast": (9.5, 9.0, 2.0)}), lambda *_: None)
    with pytest.raises(RuntimeError, match="calibration of own_seed3 failed: no power; continue with"):
        calibrate(plan, trials, 1.0, Finished(dict.fromkeys(METHODS, (9.0, 0.0, 2.0)), {"own_seed3": "no power"}), None)
    assert not (plan.folder / budget.FILE).exists()
    (plan.folder / budget.FILE).write_text(budget.DOCUMENT.to_json({"epochs": {"own": 3}}))
    with pytest.raises(UsageError, match=r"budget\.json: epochs must have"):
        read_launch(plan.folder, ())


def test_a_budget_of_epochs_is_that_of_every_search(run_cli, config, tmp_path):
    (tmp_path / "methods.yaml").write_text("own: {}\nfast: {model.tau: nas.tau.Linear}\n")
    words = ("--config", config(), "--seeds", "0", "--methods", "methods.yaml", "--out", "all")
    assert run_cli("launch", *words, "--budget", "epochs=2").code == 0
    for row in json.loads((tmp_path / "all/launch.json").read_text())["trials"]:
        assert Trial.read(row, "").settings["trainer.max_epochs"] == "2"
        assert len((tmp_path / "all/trials" / row["name"] / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "text", ["4", "epochs=2.5", "epochs=0", "trainings=-1", "trainings=inf", "days=1", "trainings=x"]
)
def test_other_budgets_are_refused(text):
    with pytest.raises(UsageError, match="--budget must be like"):
        parse_budget(text)


def test_a_method_with_epochs_of_its_own_has_no_budget(run_cli, config, tmp_path):
    (tmp_path / "methods.yaml").write_text("own: {trainer.max_epochs: 3}")
    words = ("--config", config(), "--seeds", "0", "--methods", "methods.yaml", "--budget", "trainings=0.5")
    answer = run_cli("launch", *words)
    assert answer.code == 2 and "method own sets trainer.max_epochs itself" in answer.complaint
    assert not (tmp_path / "runs").exists()
