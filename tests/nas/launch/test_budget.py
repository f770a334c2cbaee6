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

METHODS = {"own": {}, "fast": {"model.warmup_epochs": "0"}, "ranked": {"model.warmup_epochs": "3"}}


class Finished:
    """An engine whose searches have ended; `times` are the ends of epochs, derivation, and training of each method."""

    def __init__(self, times, failed=()):
        self.times, self.failed, self.names = times, dict(failed), []

    def run(self, plan, trials, on_event):
        self.names += [trial.name for trial in trials]
        for trial in trials:
            run, (search, derive, training) = plan.run(trial), self.times[trial.method]
            write_json(run.path / "summary.json", {**SUMMARY, "derive_seconds": derive})
            ends = [f"{10 * (i + 1)},{seconds}\n" for i, seconds in enumerate(search)]
            (run.path / "system.csv").write_text("".join(["step,seconds\n", *ends]))
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
    engine = Finished({"own": ((3, 15, 27), 7, 4), "fast": ((1, 2, 3), 0, 2), "ranked": ((2, 4, 6), 1, 3)})
    found = calibrate(plan, trials, 17.0, engine, lambda *_: None)
    assert engine.names == ["own_seed3", "fast_seed3", "ranked_seed3"]  # the first seed of each method
    # 17 trainings of 3 s; one epoch of warm-up, 7 s to derive, and 12 s an epoch are 3 + 7 + 12 n s
    assert found == {"own": 1 + round((51 - 10) / 12), "fast": 51, "ranked": 25}  # all epochs of the last are warm-up
    assert read_epochs(plan.folder, trials) == found
    about = read_json(plan.folder / LAUNCH, "")
    DOCUMENT.save(
        plan.folder / LAUNCH, {**{k: about[k] for k in ("retrain", "num_baseline", "trials")}, "trainings": 17.0}
    )
    again = read_launch(plan.folder, ())
    assert again.trainings == 17.0
    for trial in again.trials:
        assert trial.words()[-2:] == [f"--trainer.max_epochs={found[trial.method]}", f"--seed_everything={trial.seed}"]


def test_what_cannot_be_calibrated_is_an_error(made):
    plan, trials = made
    times = dict.fromkeys(METHODS, ((1.5, 3, 4), 0.5, 2))
    with pytest.raises(
        RuntimeError, match=r"own needs 1\.5 s of warm-up and 0\.5 s to derive, .* the budget of 2\.0 s"
    ):
        calibrate(plan, trials, 1.0, Finished(times), lambda *_: None)
    with pytest.raises(RuntimeError, match="calibration of own_seed3 failed: no power; continue with"):
        calibrate(plan, trials, 1.0, Finished(times, {"own_seed3": "no power"}), None)
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


def test_searches_that_stop_early_have_no_equal_budget(run_cli, config, tmp_path):
    words = ("--config", config(), "--seeds", "0", "--budget", "trainings=2", "--engine", "ray", "--asha")
    answer = run_cli("launch", *words)
    assert answer.code == 2 and "--asha stops searches early" in answer.complaint
    assert not (tmp_path / "runs").exists()
