"""Launches of small searches: the same runs as by hand, none twice, and figures that add up."""

import io
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas.cli import main
from nas.cli.launch_progress import progress_table
from nas.io import checkpoint_io
from nas.io.errors import UsageError
from nas.launch.launch import launch, resume_launch
from nas.launch.local import Local
from nas.launch.options import parse_settings
from nas.launch.slurm import Slurm
from nas.launch.trials import Plan, make_trials, run_trial
from nas.runs.options import ConfigSource

TAU = {"model.tau": ["nas.tau.Linear", "nas.tau.Cosine"]}


class InProcess:
    """An engine without processes; some trials fail."""

    def __init__(self, failing=()):
        self.failing, self.commands = failing, []

    def run(self, plan, trials, on_event):
        failed = {}
        for trial in trials:
            try:
                if trial.name in self.failing:
                    raise RuntimeError("the power failed")
                run_trial(plan, trial, self.command)
            except RuntimeError as error:
                failed[trial.name] = str(error)
        return failed

    def command(self, words, log):
        self.commands.append(words[3])
        return main(words[3:])


def watch_with(on_event):
    @contextmanager
    def progress(plan, trials):
        yield on_event

    return progress


silent = watch_with(lambda trial, state: None)


def test_trials_are_every_combination_with_names_of_their_own():
    trials = make_trials([0, 3], {**TAU, "model.noise": ["batch"]})
    assert [(t.seed, t.settings["model.tau"]) for t in trials] == [
        (seed, tau) for tau in TAU["model.tau"] for seed in (0, 3)
    ]
    assert trials[0].name == "000_tau-Linear_noise-batch_seed0" and len({t.name for t in trials}) == 4
    assert trials[0].words() == ["--model.tau=nas.tau.Linear", "--model.noise=batch", "--seed_everything=0"]
    with pytest.raises(UsageError, match="seed1 is given twice"):
        make_trials([1, 1], {})
    with pytest.raises(UsageError, match="at most 10000"):
        make_trials(range(5001), TAU)
    assert (
        ".." not in make_trials([0], {"data.path": ["../../x"]})[0].name.replace("..", "") and "/" not in trials[0].name
    )


def test_a_launch_is_the_searches_by_hand_and_its_figures_add_up(run_cli, config, tmp_path, capfd):
    source, engine = ConfigSource((config(),)), InProcess()
    folder, summary = launch(
        source, [3, 4], TAU, engine, tmp_path / "all", retrain=True, num_baseline=2, progress=silent
    )
    assert engine.commands == ["search", "retrain"] * 4
    assert (
        run_cli(
            "search", "--config", "tiny.yaml", "--model.tau=nas.tau.Cosine", "--seed_everything=4", "--out", "own"
        ).code
        == 0
    )
    mine = folder / "trials/001_tau-Cosine_seed4"
    assert (mine / "metrics.csv").read_bytes() == (tmp_path / "own/metrics.csv").read_bytes()
    assert [row["settings"] for row in summary["settings"]] == [{"model.tau": value} for value in TAU["model.tau"]]
    for row in summary["settings"]:
        tau = row["settings"]["model.tau"].rpartition(".")[2]
        values = [
            json.loads((path / "retrain/summary.json").read_text())["test_accuracy"]
            for path in sorted((folder / "trials").glob(f"*{tau}*"))
        ]
        assert len(values) == 2 == row["num_finished"] and row["part"] == "test"
        assert row["mean"] == statistics.fmean(values) and row["std"] == statistics.stdev(values)
        assert row["latency_ms"] > 0 and row["random_search"]["num"] >= 1 and row["cost"] > 0
    assert summary["baseline"]["num"] == 2 and summary["failed"] == {}
    assert len((folder / "trials.csv").read_text().splitlines()) == 5
    again = InProcess()
    assert resume_launch(folder, again, (), silent)[1] == summary and again.commands == []
    for row in summary["trials"]:  # the HParams page: one row a trial, also after resuming
        events = EventAccumulator(str(folder / "dashboard/trials" / row["name"])).Reload()
        assert {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]} == pytest.approx(
            {f"launch/{key}": row[key] for key in ("arch", "test", "search_seconds")}
        )
        (path,) = (folder / "dashboard/trials" / row["name"]).iterdir()
        assert row["method"].encode() in path.read_bytes()


def test_the_live_table_shows_what_is_at_work_first(config, tmp_path):
    trials = make_trials(range(30), {})
    plan = Plan(tmp_path, (), False)
    folder = plan.run(trials[29]).path
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(
        "step,epoch,weight/loss,weight/accuracy,arch/loss,arch/accuracy\n9,4,1,0.5,2,0.25\n"
    )
    states = dict.fromkeys((trial.name for trial in trials), "waiting") | {"seed29": "running", "seed0": "finished"}
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(progress_table(plan, trials, states, 12.3))
    lines = console.export_text().splitlines()
    row = next(line for line in lines if "seed29" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["seed29", "running", "5", "2.0000", "0.2500"]
    assert next(line for line in lines if "seed" in line) == row and not any("seed0 " in line for line in lines)
    assert "1 finished, 28 waiting, 1 running; 12 s" in lines[-1]


def test_what_failed_is_named_and_done_later(run_cli, config, tmp_path):
    source = ConfigSource((config(),))
    options = {"retrain": False, "num_baseline": 0, "progress": silent}
    folder, summary = launch(source, [3, 4], {}, InProcess(["seed4"]), tmp_path / "all", **options)
    assert summary["failed"] == {"seed4": "the power failed"}
    assert summary["settings"][0]["num_finished"] == 1 and summary["settings"][0]["std"] is None
    engine = InProcess()
    _, summary = resume_launch(folder, engine, (), silent)
    assert engine.commands == ["search"] and summary["settings"][0]["num_finished"] == 2


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ["1", "2"]),
        ("[1,2],[1,4]", ["[1,2]", "[1,4]"]),
        ("{a: [1,2], b: 3}, null", ["{a: [1,2], b: 3}", "null"]),
        ("'a,b',\"[\",c", ["'a,b'", '"["', "c"]),
    ],
)
def test_commas_inside_brackets_and_quotes_split_no_value(text, values):
    key = "model.space.init_args.dilations"
    assert parse_settings([f"{key}={text}"]) == {key: values}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config", "tiny.yaml"), "--seeds A-B"),
        (("--config", "tiny.yaml", "--seeds", "x"), "--seeds must be like"),
        (("--config", "tiny.yaml", "--seeds", "3-1"), "--seeds must be like"),
        (("--config", "tiny.yaml", "--seeds", "0,0"), "seed0 is given twice"),
        (("--config", "tiny.yaml", "--seeds", "0", "--set", "model.tau"), "--set must be like"),
        (("--config", "tiny.yaml", "--seeds", "0", "--set", "model.tau=nas.tau.Nothing"), "model.tau"),
        (
            ("--config", "tiny.yaml", "--seeds", "0", "--set", "model.tau=1", "--set", "model.tau=2"),
            "model.tau is given twice",
        ),
        (("--config", "tiny.yaml", "--seeds", "0", "--num-parallel", "0"), "--num-parallel"),
        (("--resume", "nowhere"), "nowhere: not the folder of a launch"),
        (("--resume", "nowhere", "--seeds", "0"), "leave out --seeds"),
        (("--resume", "nowhere", "--retrain", "--model.noise", "batch"), "leave out --retrain --model.noise batch"),
    ],
)
def test_wrong_usage(run_cli, config, words, message):
    config()
    answer = run_cli("launch", *words)
    assert answer.code == 2 and message in answer.complaint and not Path("runs").exists()


def signal_soon(folder, name, signum, is_meant, wait_until):
    """Sends a signal to the processes whose words are meant, once a trial has a checkpoint."""

    def wait_and_send():
        wait_until((folder / "trials" / name / "checkpoints/last.ckpt").exists)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_text().split("\0")
            except OSError:
                continue
            if is_meant(words):
                os.kill(int(path.parent.name), signum)

    thread = threading.Thread(target=wait_and_send)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_killed_search_goes_on_by_itself_and_is_the_same(run_cli, config, tmp_path, wait_until):
    path = config({"trainer.max_epochs": 12})
    assert run_cli("search", "--config", path, "--seed_everything=4", "--out", "own").code == 0
    folder, states = tmp_path / "all", []
    killer = signal_soon(
        folder, "seed4", signal.SIGKILL, lambda words: words[-2:-1] == [str(folder / "trials/seed4")], wait_until
    )
    _, summary = launch(
        ConfigSource((path,)),
        [3, 4],
        {},
        Local(2, max_failures=1),
        folder,
        retrain=False,
        num_baseline=0,
        progress=watch_with(lambda trial, state: states.append((trial.name, state))),
    )
    killer.join()
    assert summary["failed"] == {} and summary["settings"][0]["num_finished"] == 2
    assert [state for name, state in states if name == "seed4"][1].startswith("seed4: exit code -9")
    for name in ("metrics.csv", "genotype.json"):
        assert (folder / "trials/seed4" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    mine, own = (checkpoint_io.load(f / "checkpoints/last.ckpt") for f in (folder / "trials/seed4", tmp_path / "own"))
    assert mine["num_batches_done"] == own["num_batches_done"]


@pytest.mark.slow
def test_a_stopped_launch_stops_its_searches_and_goes_on(config, tmp_path, wait_until):
    path = config({"trainer.max_epochs": 30})
    words = [sys.executable, "-m", "nas", "launch"]
    process = subprocess.Popen(
        [*words, "--config", str(path), "--seeds", "3-4", "--out", "all"], stderr=subprocess.PIPE, text=True
    )
    wait_until((tmp_path / "all/trials/seed3/checkpoints/last.ckpt").exists, process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by SIGTERM" in said
    assert "after saving a checkpoint" in (tmp_path / "all/logs/seed3.txt").read_text()
    assert not (tmp_path / "all/trials/seed4").exists()
    done = subprocess.run([*words, "--resume", "all", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"][0]["num_finished"] == 2


@pytest.mark.slow
def test_a_preempted_job_is_queued_again_and_the_search_is_the_same(run_cli, config, tmp_path, wait_until):
    path = config({"trainer.max_epochs": 30})
    assert run_cli("search", "--config", path, "--seed_everything=4", "--out", "own").code == 0
    folder = tmp_path / "all"
    thread = signal_soon(
        folder,
        "seed4",
        signal.SIGUSR2,
        lambda words: "submitit.core._submit" in words and str(folder / "jobs") in words,
        wait_until,
    )
    options = {"retrain": False, "num_baseline": 0, "progress": silent}
    engine = Slurm(max_failures=0, cluster="local", timeout_min=10)  # to be preempted is no failure
    _, summary = launch(ConfigSource((path,)), [4], {}, engine, folder, **options)
    thread.join()
    assert summary["failed"] == {}
    assert "after saving a checkpoint" in (folder / "logs/seed4.txt").read_text()
    for name in ("metrics.csv", "genotype.json"):
        assert (folder / "trials/seed4" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
