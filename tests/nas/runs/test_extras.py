"""Callbacks, loggers, a time limit and schedules by class path in a configuration."""

import csv
import warnings

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import nas

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval.*")
STOP = {
    "class_path": "pytorch_lightning.callbacks.EarlyStopping",
    "init_args": {"monitor": "arch/loss", "patience": 1, "min_delta": 10.0, "strict": False},
}
RATE = {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.99}}


@pytest.fixture
def config(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(tiny)
    values["trainer"] |= {"max_epochs": 5, "num_images": 0}
    return values


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_callbacks_and_loggers_see_the_metrics_and_are_made_for_trainings_alone(config, tmp_path):
    logger = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "csv")}}
    folder = {"save_dir": str(tmp_path), "name": "board", "version": ""}
    board = {"class_path": "pytorch_lightning.loggers.TensorBoardLogger", "init_args": folder}
    config["trainer"] |= {"callbacks": [STOP], "logger": [logger, board]}
    run = nas.search(config, out="run")
    ours = rows_of("run/metrics.csv")
    assert len(ours) == 3  # alpha has no loss in the warm-up epoch; the one after the next is no better by 10
    (path,) = (tmp_path / "csv").rglob("metrics.csv")
    theirs = [row for row in rows_of(path) if row.get("arch/accuracy")]
    for name in ("arch/accuracy", "search/tau", "choice/layer1.conv/dilation_8"):
        assert [float(row[name]) for row in theirs] == pytest.approx(
            [float(row[name]) for row in ours if row["arch/accuracy"]]
        )
    scalars = EventAccumulator("run").Reload().Scalars("search/tau")
    assert [event.step for event in scalars] == [int(row["step"]) for row in ours]  # once each
    added = EventAccumulator("board").Reload().Scalars("search/tau")
    assert [event.value for event in added] == pytest.approx([float(row["search/tau"]) for row in ours])  # once each
    run.evaluate(), run.derive()
    assert len(list((tmp_path / "csv").rglob("metrics.csv"))) == 1


def test_a_schedule_by_class_path_steps_after_every_batch_and_resumes(config):
    config["model"] |= {"weight_schedule": RATE}
    whole = nas.search(config, out="whole")
    rows = rows_of("whole/metrics.csv")
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
    for row in rows:
        while scheduler.last_epoch < int(row["step"]):
            optimizer.step(), scheduler.step()
        assert float(row["lr/weight"]) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    again = nas.search(config, out="again", trainer={"max_epochs": 2})
    (
        (again.path / "manifest.json").unlink(),
        (again.path / "summary.json").unlink(),
        (again.path / "genotype.json").unlink(),
    )
    text = (whole.path / "config.yaml").read_text()
    (again.path / "config.yaml").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other number of epochs
        again.resume(force=True)
    assert float(rows_of("again/metrics.csv")[-1]["lr/weight"]) == float(rows[-1]["lr/weight"])


def test_a_time_limit_ends_a_search(config):
    config["trainer"] |= {"max_epochs": 5000, "max_time": "00:00:00:01"}
    run = nas.search(config, out="run")
    assert 0 < len(rows_of("run/metrics.csv")) < 5000 and run.finished


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"callbacks": [{"class_path": "os.system"}]}}, "'os.system' is not in a trusted module"),
        ({"trainer": {"callbacks": [{"class_path": "pytorch_lightning.callbacks.LambdaCallback"}]}}, "LambdaCallback"),
        ({"trainer": {"callbacks": [{"class_path": "nas.tau.Cosine"}]}}, "Cosine"),
        ({"trainer": {"callbacks": [{**STOP, "init_args": {"monitors": "x"}}]}}, "monitors"),
        ({"trainer": {"logger": [STOP]}}, "EarlyStopping"),
        ({"trainer": {"max_time": "soon"}}, "trainer"),
        ({"model": {"weight_schedule": {"class_path": "torch.optim.lr_scheduler.LambdaLR"}}}, "LambdaLR"),
        (
            {"model": {"weight_schedule": {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}}},
            "ReduceLROnPlateau needs a metric",
        ),
        ({"model": {"arch_schedule": "linear"}}, "arch_schedule"),
    ],
)
def test_bad_classes_are_refused_before_a_file_is_written(config, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        nas.search(config, out="run", **changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
