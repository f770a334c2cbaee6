"""A search or retraining that was stopped goes on exactly: equal metrics.csv, weights, alpha, optimizer states and genotype."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from importlib.metadata import version

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas.cli import entry, main
from nas.io import checkpoint_io
from nas.runs import record
from nas.runs.folder import RunFolder
from nas.training.retrain_module import RetrainModule
from nas.training.search_module import SearchModule


class Crash(Exception):
    pass


def stop_at(monkeypatch, module, batch, how):
    """Stops the run in the given batch, once."""
    step = module.training_step
    done = []

    def stopping(self, *args):
        if self.num_batches_done == batch and not done:
            done.append(True)
            how()
        return step(self, *args)

    monkeypatch.setattr(module, "training_step", stopping)


def crash():
    raise Crash("the power failed")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def send(*signums):
    def signals():
        for signum in signums:
            os.kill(os.getpid(), signum)

    return signals


def state(folder):
    return checkpoint_io.load(folder / "checkpoints" / "last.ckpt")


def assert_equal(a, b, path="state"):
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if key not in ("SystemWriter", "seconds"):  # times differ
                assert_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def assert_same_run(a, b):
    assert (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes()
    assert (
        json.loads((a / "genotype.json").read_text())["choices"]
        == json.loads((b / "genotype.json").read_text())["choices"]
    )
    first, second = (state(folder) for folder in (a, b))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "num_batches_done", "epoch", "callbacks"):
        assert_equal(first[key], second[key], key)


QUICK = {"trainer.max_epochs": 1, "model.warmup_epochs": 0}


# batches 6 an epoch (two halves of 600, batches of 100): first, inside, last of an epoch, first of the next, last of all
@pytest.mark.parametrize("batch", [0, 3, 5, 6, 17])
@pytest.mark.parametrize(("how", "code"), [(crash, 1), (terminate, 143)])
def test_search_goes_on_exactly(run_cli, config, tmp_path, monkeypatch, searched, batch, how, code):
    path = config()
    stop_at(monkeypatch, SearchModule, batch, how)
    stopped = run_cli("search", "--config", path, "--out", "cut")
    assert stopped.code == code
    if how is terminate:
        assert stopped.complaint.endswith(
            "stopped by SIGTERM after saving a checkpoint; resume with: nas search --resume cut"
        )
    resumed = run_cli("search", "--resume", "cut", "--json")
    assert resumed.code == 0 and resumed.result["stage"] == "search"
    assert_same_run(searched, tmp_path / "cut")


@pytest.mark.parametrize(
    ("signums", "code"),
    [
        ((signal.SIGINT,), 130),
        ((signal.SIGUSR1,), 130),
        ((signal.SIGTERM, signal.SIGINT, signal.SIGTERM), 143),
        ((signal.SIGINT, signal.SIGTERM), 130),
    ],
)
def test_every_signal_saves_and_a_second_one_changes_nothing(run_cli, config, tmp_path, monkeypatch, signums, code):
    stop_at(monkeypatch, SearchModule, 8, send(*signums))
    answer = run_cli("search", "--config", config(), "--out", "cut")
    assert answer.code == code and f"stopped by {signums[0].name} after saving a checkpoint" in answer.complaint
    assert state(tmp_path / "cut")["num_batches_done"] == 9


def test_signals_outside_training_end_with_their_code(run_cli, config, monkeypatch):
    monkeypatch.setattr("nas.runs.stages.search.check_choices", lambda *_: send(signal.SIGUSR1)())
    answer = run_cli("search", "--config", config(), "--out", "cut")
    assert answer.code == 130 and answer.complaint == "nas: stopped by SIGUSR1" and not os.path.exists("cut")


def test_a_signal_to_the_whole_process_group_spares_the_loaders_until_the_batch_is_saved(
    config, tmp_path, monkeypatch, in_children
):
    def stop():
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.5)  # time for a loader to die, which would end this process with an error

    def child():
        os.setsid()
        with open("said", "w") as file, redirect_stderr(file):
            entry()

    stop_at(monkeypatch, SearchModule, 8, stop)
    path = config({"data.init_args.num_workers": 1})
    monkeypatch.setattr(sys, "argv", ["nas", "search", "--config", str(path), "--out", "cut"])
    assert in_children(child) == [143] and "after saving a checkpoint" in (tmp_path / "said").read_text()
    assert state(tmp_path / "cut")["num_batches_done"] == 9


def test_long_epochs_are_saved_in_their_middle_and_go_on_exactly(run_cli, config, tmp_path, monkeypatch):
    path = config({"trainer.checkpoint_minutes": 1e-9, "trainer.checkpoint_seconds": 1000})
    assert run_cli("search", "--config", path, "--out", "whole").code == 0
    stop_at(monkeypatch, SearchModule, 10, crash)
    assert run_cli("search", "--config", path, "--out", "cut").code == 1
    assert state(tmp_path / "cut")["num_batches_done"] == 10
    assert run_cli("search", "--resume", "cut").code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


OWN_SPACE = """
import nas
from torch import nn
class Space(nas.SearchSpace):
    def network(self, stage="search"):
        op = nas.choice("op", {"a": nn.ReLU, "b": nn.Tanh})
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), op, nn.Linear(8, 10))
"""


def test_what_was_begun_otherwise_is_refused_with_the_difference_and_forced_where_wanted(
    run_cli, config, tmp_path, monkeypatch
):
    (tmp_path / "own_space.py").write_text(OWN_SPACE)
    path = config({"model.space": {"class_path": "own_space.Space"}})
    trust = ("--trust-module", "own_space")
    stop_at(monkeypatch, SearchModule, 8, crash)
    assert run_cli("search", "--config", path, "--out", "run", *trust).code == 1
    (tmp_path / "own_space.py").write_text(f"{OWN_SPACE}\n# edited")
    resolved = tmp_path / "run/config.yaml"
    resolved.write_text(resolved.read_text().replace("lr: 0.03", "lr: 0.04").replace("max_epochs: 3", "max_epochs: 4"))
    versions = record.versions
    monkeypatch.setattr(record, "versions", lambda: {**versions(), "torch": "99.0"})
    answer = run_cli("search", "--resume", "run", *trust)
    assert answer.code == 2 and answer.complaint.endswith("; --force resumes anyway")
    for part in (
        "run/checkpoints/last.ckpt: the run began with other settings: trainer.max_epochs was 3, is 4; ",
        "model.arch_optimizer.init_args.lr was 0.03, is 0.04; ",
        f'versions.torch was "{version("torch")}", is "99.0"; ',
        "sources.own_space was ",
    ):
        assert part in answer.complaint
    assert not (tmp_path / "run/.lock").exists()
    with pytest.warns(UserWarning, match="the run began with other settings: trainer.max_epochs was 3, is 4"):
        assert run_cli("search", "--resume", "run", "--force", *trust).code == 0
    assert state(tmp_path / "run")["num_batches_done"] == 24
    assert run_cli("search", "--config", path, "--force").code == 2


def test_another_machine_is_told_but_not_refused(run_cli, config, monkeypatch):
    stop_at(monkeypatch, SearchModule, 8, crash)
    assert run_cli("search", "--config", config(), "--out", "run").code == 1
    monkeypatch.setattr(record, "device_name", lambda device: "abacus")
    with pytest.warns(UserWarning, match=r"resumed on abacus; sums may round differently"):
        assert run_cli("search", "--resume", "run").code == 0


def test_two_processes_do_not_write_into_one_run(run_cli, config, tmp_path, monkeypatch):
    stop_at(monkeypatch, SearchModule, 8, crash)
    assert run_cli("search", "--config", config(), "--out", "run").code == 1
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nas.io.folder_lock import locked\n"
        "with locked(Path('run')):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        answer = run_cli("search", "--resume", "run")
        assert answer.code == 2 and f"run: in use by process {holder.pid} on " in answer.complaint
        after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        assert before == {path: content for path, content in after.items() if path.name != ".lock"}
        holder.stdin.close()
    assert run_cli("search", "--resume", "run").code == 0


def test_search_with_workers_dropout_and_sampled_paths_goes_on_exactly(run_cli, config, tmp_path, monkeypatch):
    (tmp_path / "dropping.py").write_text(
        "import nas\n"
        "from torch import nn\n"
        "class Space(nas.SearchSpace):\n"
        "    def network(self, stage='search'):\n"
        "        op = nas.choice('op', {'a': nn.ReLU, 'b': nn.Tanh})\n"
        "        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(), op, nn.BatchNorm1d(8), nn.Linear(8, 10))\n"
    )
    path = config(
        {
            "model.space": {"class_path": "dropping.Space"},
            "model.relaxation": {"class_path": "nas.relaxations.SampledPath"},
            "data": {"class_path": "nas.data.Digits", "init_args": {"batch_size": 100, "num_workers": 2}},
        }
    )
    trust = ("--trust-module", "dropping")
    assert run_cli("search", "--config", path, "--out", "whole", *trust).code == 0
    stop_at(monkeypatch, SearchModule, 8, crash)
    assert run_cli("search", "--config", path, "--out", "cut", *trust).code == 1
    assert run_cli("search", "--resume", "cut", *trust).code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


FAIR = {
    "model.space": {
        "class_path": "search_spaces.dilation.DilationNet1d",
        "init_args": {"num_layers": 2, "channels": 4, "dilations": [1, 8], "candidate_norms": True},
    },
    "model.relaxation": {"class_path": "nas.relaxations.SampledPath"},
    "model.warmup_paths": {"class_path": "nas.paths.Fair"},
    "model.num_paths": 3,
    "model.average_decay": 0.9,
    "model.derive": {"class_path": "nas.derive.Ranked", "init_args": {"refit_head": True}},
}


def places():
    """In the warm-up, at its end, and where alpha moves; with a checkpoint after every epoch, or with none but the first."""
    quick = {(8, 0), (16, 1000)}
    for seconds in (0, 1000):
        for batch in (2, 6, 8, 16):
            yield pytest.param(batch, seconds, marks=() if (batch, seconds) in quick else pytest.mark.slow)


@pytest.mark.parametrize(("batch", "seconds"), list(places()))
def test_fair_paths_averaged_weights_and_guards_go_on_exactly(run_cli, config, tmp_path, monkeypatch, batch, seconds):
    path = config({**FAIR, "trainer.checkpoint_seconds": seconds})
    assert run_cli("search", "--config", path, "--out", "whole").code == 0
    stop_at(monkeypatch, SearchModule, batch, crash)
    assert run_cli("search", "--config", path, "--out", "cut").code == 1
    assert state(tmp_path / "cut")["num_batches_done"] == (batch // 6 * 6 if seconds == 0 else 0)
    assert run_cli("search", "--resume", "cut").code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


EVERYTHING = {
    "model.relaxation": {"class_path": "nas.relaxations.GumbelRao", "init_args": {"num_samples": 3}},
    "model.tau": {
        "class_path": "nas.tau.Reheating",
        # always collapsed: raised in the first epoch, again after the break
        "init_args": {"schedule": {"class_path": "nas.tau.LearnedTau"}, "min_entropy": 10.0, "duration": 0.4},
    },
    "model.bilevel": {"class_path": "nas.bilevel.Unrolled"},
    "model.weight_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}},
    "model.regularizers": [
        {"class_path": "nas.regularizers.Entropy", "init_args": {"weight": -0.1, "at_tau": True}},
        {"class_path": "nas.regularizers.BetaDecay"},
        {"class_path": "nas.regularizers.Perturbation"},
        {"class_path": "nas.regularizers.SkipDropout", "init_args": {"labels": ["dilation_1"]}},
    ],
    "model.noise": "sample",
    "model.warmup_epochs": 0,
}


@pytest.mark.parametrize("batch", [8, 14])
def test_a_search_with_every_stateful_part_goes_on_exactly(run_cli, config, tmp_path, monkeypatch, batch):
    path = config(EVERYTHING)
    assert run_cli("search", "--config", path, "--out", "whole").code == 0
    stop_at(monkeypatch, SearchModule, batch, terminate)
    assert run_cli("search", "--config", path, "--out", "cut").code == 143
    assert run_cli("search", "--resume", "cut").code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    state_dict = state(tmp_path / "cut")["state_dict"]
    assert state_dict["tau.start"] >= 0 and state_dict["tau.schedule.log_excess"] != 0


DIVERSE = """
from torchmetrics import Metric
import torch
from nas.tasks import Classification
class UsedClasses(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("counts", torch.zeros(10), dist_reduce_fx="sum")
    def update(self, prediction, target):
        self.counts += torch.bincount(prediction.argmax(-1), minlength=10)
    def compute(self):
        return (self.counts > 0).sum()
class Diverse(Classification):
    def metrics(self):
        return {**super().metrics(), "diversity": UsedClasses()}
"""


def test_a_search_reheats_by_the_diversity_of_its_task_and_goes_on_exactly(run_cli, config, tmp_path, monkeypatch):
    (tmp_path / "diverse.py").write_text(DIVERSE)
    tau = {
        "class_path": "nas.tau.DiversityReheating",
        # the reference is out of reach: raised after the first epoch, again when its heat is gone
        "init_args": {
            "schedule": {"class_path": "nas.tau.Constant"},
            "reference": 21.0,
            "factor": 3.0,
            "duration": 0.4,
        },
    }
    task = {"class_path": "diverse.Diverse", "init_args": {"num_classes": 10}}
    path, trust = config({"model.tau": tau, "model.task": task}), ("--trust-module", "diverse")
    assert run_cli("search", "--config", path, "--out", "whole", *trust).code == 0
    stop_at(monkeypatch, SearchModule, 8, terminate)
    assert run_cli("search", "--config", path, "--out", "cut", *trust).code == 143
    assert run_cli("search", "--resume", "cut", *trust).code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    with open(tmp_path / "whole" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert state(tmp_path / "cut")["state_dict"]["tau.best"] == max(float(row["weight/diversity"]) for row in rows) > 0
    assert float(rows[0]["search/tau"]) == 1.0 < float(rows[1]["search/tau"])
    missing = config({"model.tau": tau}, "missing.yaml")
    answer = run_cli("search", "--config", missing, "--out", "missing")
    assert answer.code == 2 and "metric named diversity; Classification has none" in answer.complaint


ESTIMATORS = {
    name: {"model.relaxation": {"class_path": f"nas.relaxations.{name}"}}
    for name in ("Softmax", "SampledPath", "ReinMax", "GumbelRao", "Dirichlet", "TwoPath", "BinaryConcrete")
}
METHODS = {
    "joint": {"model.bilevel": {"class_path": "nas.bilevel.Joint"}},
    "finite difference": {
        "model.bilevel": {"class_path": "nas.bilevel.Unrolled", "init_args": {"exact": False}},
        "model.weight_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}},
    },
    "uniform paths": {
        "model.warmup_paths": {"class_path": "nas.paths.Uniform"},
        "model.relaxation": {"class_path": "nas.relaxations.SampledPath"},
    },
    "cosine, one cycle": {"model.weight_schedule": "one_cycle", "model.arch_schedule": "cosine"},
}
TASKS = {
    "label smoothing": {"model.task.init_args.label_smoothing": 0.1},
    "regression": {
        "model.task": {"class_path": "nas.tasks.Regression"},
        "model.space": {"class_path": "lines.Space"},
        "data": {"class_path": "lines.Data", "init_args": {"batch_size": 20}},
    },
}
PARTS = {**ESTIMATORS, **METHODS, **TASKS}

LINES = """
import nas
import torch
from nas.data import SearchDataModule
from torch import nn
from torch.utils.data import TensorDataset
class Space(nas.SearchSpace):
    def network(self, stage="search"):
        return nn.Sequential(nn.Linear(4, 8), nas.choice("op", {"a": nn.ReLU, "b": nn.Tanh}), nn.Linear(8, 1), nn.Flatten(0))
class Data(SearchDataModule):
    def train_set(self, augment):
        x = torch.randn(240, 4, generator=torch.Generator().manual_seed(0))
        return TensorDataset(x, x.sum(1))
    test_set = lambda self: self.train_set(False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_every_part_goes_on_exactly(run_cli, config, tmp_path, monkeypatch, name):
    (tmp_path / "lines.py").write_text(LINES)
    path, trust = config(PARTS[name]), ("--trust-module", "lines")
    assert run_cli("search", "--config", path, "--out", "whole", *trust).code == 0
    stop_at(monkeypatch, SearchModule, 9, crash)
    assert run_cli("search", "--config", path, "--out", "cut", *trust).code == 1
    assert run_cli("search", "--resume", "cut", *trust).code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_killed_process_goes_on_exactly(run_cli, config, tmp_path, monkeypatch, in_children):
    path = config({"trainer.num_images": 10})
    assert run_cli("search", "--config", path, "--out", "whole").code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, SearchModule, 9, send(signal.SIGKILL))
        assert in_children(lambda: main(["search", "--config", str(path), "--out", "cut"])) == [-signal.SIGKILL]
    assert run_cli("search", "--resume", "cut").code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    whole, cut = steps_of_events(tmp_path / "whole"), steps_of_events(tmp_path / "cut")
    assert whole == cut and {"search/architecture", "search/tau", "alpha", "custom_scalars__config__"} <= set(cut)
    for tag, steps in cut.items():
        assert steps == sorted(set(steps)), tag


def test_event_files_of_one_second_are_not_read_in_a_wrong_order(tmp_path):
    folder = RunFolder(tmp_path)
    folder.wait_for_events()  # nothing to wait for
    for _ in range(2):
        (tmp_path / f"events.out.tfevents.{int(time.time())}.host.999.0").touch()
        folder.wait_for_events()
        names = [path.name for path in tmp_path.iterdir()]
        assert f"events.out.tfevents.{int(time.time())}.host.1000.0" > max(names)


def steps_of_events(folder):
    """Tag -> the steps at which it has a point, in the order in which TensorBoard shows them; of every kind of tag."""
    found = EventAccumulator(
        str(folder), size_guidance=dict.fromkeys(("scalars", "images", "tensors", "histograms"), 0)
    )
    tags = found.Reload().Tags()
    read = {"scalars": found.Scalars, "images": found.Images, "histograms": found.Histograms, "tensors": found.Tensors}
    return {tag: [event.step for event in read[kind](tag)] for kind in read for tag in tags[kind]}


def test_equal_seeds_give_equal_runs_and_others_do_not(run_cli, config, tmp_path, searched):
    path = config()
    for out, words in (("b", ()), ("c", ("--seed_everything", 4))):
        assert run_cli("search", "--config", path, "--out", out, *words).code == 0
    assert_same_run(searched, tmp_path / "b")
    assert (searched / "metrics.csv").read_bytes() != (tmp_path / "c/metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def retrained(searched, tmp_path_factory):
    """The folder of an undisturbed retraining."""
    folder = tmp_path_factory.mktemp("retrained") / "whole"
    assert main(["retrain", "--run", str(searched), "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("how", [crash, terminate])
def test_retraining_goes_on_exactly_when_called_again(run_cli, tmp_path, monkeypatch, searched, retrained, how):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(searched, "run")
    stop_at(monkeypatch, RetrainModule, 14, how)
    assert run_cli("retrain", "--run", "run", "--out", "cut").code != 0
    assert (
        "unfinished retraining with other settings"
        in run_cli("retrain", "--run", "run", "--out", "cut", "--seed", 9).complaint
    )
    assert run_cli("retrain", "--run", "run", "--out", "cut").code == 0
    assert_same_run(retrained, tmp_path / "cut")
    assert "finished retraining" in run_cli("retrain", "--run", "run", "--out", "cut").complaint


def test_resuming_a_finished_search_prints_its_summary_and_changes_nothing(run_cli, config, tmp_path):
    first = run_cli("search", "--config", config(QUICK), "--out", "run", "--json").result
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert run_cli("search", "--resume", "run", "--json").result == first
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_the_run_is_the_same(
    run_cli, config, tmp_path, monkeypatch, searched
):
    stop_at(monkeypatch, SearchModule, 15, crash)
    assert run_cli("search", "--config", config(), "--out", "cut").code == 1
    checkpoint = tmp_path / "cut/checkpoints/last.ckpt"
    damaged = bytearray(checkpoint.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    checkpoint.write_bytes(damaged)
    with pytest.warns(UserWarning, match="checksum does not match"):
        assert run_cli("search", "--resume", "cut").code == 0
    assert_same_run(searched, tmp_path / "cut")


def test_tensorboard_holds_each_point_once_after_a_resume(run_cli, config, tmp_path, monkeypatch):
    stop_at(monkeypatch, SearchModule, 8, crash)
    path = config()
    assert run_cli("search", "--config", path, "--out", "run").code == 1
    assert run_cli("search", "--resume", "run").code == 0
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"search/tau", "search/entropy", "weight/loss", "arch/accuracy", "choice/layer1.conv/dilation_8"} <= set(
        tags
    )
    for tag in tags:
        assert len({event.step for event in events.Scalars(tag)}) == len(events.Scalars(tag))
    assert [event.step for event in events.Scalars("search/tau")] == [6, 12, 18]
