"""What is refused before the first step, and what the end of a search survives."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from nas.runs import pages, results
from nas.runs.record import RunProvenance
from nas.runs.stages import search

OWN = """
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

import nas
from nas.data import SearchDataModule
from nas.tasks import Task


def act(name="act"):
    return nas.choice(name, {"relu": nn.ReLU, "gelu": nn.GELU})


class Ghost(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), act(), nn.Linear(16, 4))
        self.ghost = act("ghost")

    def forward(self, x):
        return self.net(x)


class Unused(nas.SearchSpace):
    def network(self, stage="search"):
        return Ghost()


class Swallowed(nas.SearchSpace):
    def network(self, stage="search"):
        hidden = int(nas.width("w", (8, 16)))
        return nn.Sequential(nn.Linear(8, hidden), act(), nn.Linear(hidden, 4))


class Gated(nas.SearchSpace):
    def network(self, stage="search"):
        w = nas.width("w", (8, 16))
        return nn.Sequential(nn.Linear(8, 2 * w), nn.GLU(), act(), nn.Linear(w, 4))


class Plain(nas.SearchSpace):
    def network(self, stage="search"):
        return nn.Sequential(nn.utils.spectral_norm(nn.Linear(8, 16)), act(), nn.Linear(16, 4))


class Rows(torch.utils.data.Dataset):
    def __init__(self, target):
        self.target = target

    def __len__(self):
        return 48

    def __getitem__(self, i):
        x = torch.randn(8, generator=torch.Generator().manual_seed(i))
        return x, self.target(i, x)


class Data(SearchDataModule):
    def train_set(self, augment):
        return Rows(lambda i, x: i % 4)

    def test_set(self):
        return self.train_set(False)


class Several(Data):
    def train_set(self, augment):
        return Rows(lambda i, x: {"kind": i % 4, "size": x[0]})


class Accuracy(MulticlassAccuracy):
    def update(self, output, target):
        super().update(output, target["kind"])


class Both(Task):
    def loss(self, output, target):
        return F.cross_entropy(output, target["kind"]) + F.mse_loss(output[:, 0], target["size"])

    def metrics(self):
        return {"accuracy": Accuracy(4, average="micro")}


class PerClass(Task):
    def __init__(self, first: str = "micro"):
        super().__init__()
        self.first = first

    def loss(self, output, target):
        return F.cross_entropy(output, target)

    def metrics(self):
        first = MulticlassAccuracy(4, average=self.first)
        return {"accuracy": first, "of_class": MulticlassAccuracy(4, average="none")}
"""


@pytest.fixture
def run(run_cli, config, tmp_path):
    """Searches a space of the module above with changes to the configuration."""
    (tmp_path / "own_before.py").write_text(OWN)
    changes = {
        "data": {"class_path": "own_before.Data", "init_args": {"batch_size": 6}},
        "model.task": {"class_path": "nas.tasks.Classification", "init_args": {"num_classes": 4}},
    }

    def search(space="Plain", *words, **more):
        path = config({**changes, "model.space": f"own_before.{space}", **more})
        return run_cli("search", "--config", path, "--trust-module", "own_before", "--out", "run", "--json", *words)

    return search


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("Unused", "the forward pass does not use choice 'ghost'"),
        ("Swallowed", "'w' of nas.width or nas.value reaches no layer"),
        ("Gated", "the derived network differs from the supernet: outputs differ"),
    ],
)
def test_what_cannot_be_searched_is_refused(run, space, said):
    assert said in run(space).complaint and not Path("run").exists()


@pytest.mark.parametrize("num_paths", [1, 2])
def test_targets_of_several_tensors(run, num_paths):
    data = {"class_path": "own_before.Several", "init_args": {"batch_size": 6}}
    answer = run(**{"data": data, "model.task": "own_before.Both", "model.num_paths": num_paths})
    assert answer.code == 0 and 0 <= answer.result["metric"]["value"] <= 1


def test_metrics_that_are_vectors_are_logged_by_element(run):
    assert run(**{"model.task": "own_before.PerClass"}).code == 0
    header, *rows = Path("run/metrics.csv").read_text().splitlines()
    names = [f"{level}/of_class/{i}" for level in ("weight", "arch") for i in range(4)]
    assert [name for name in header.split(",") if "of_class" in name] == names and len(rows) == 3


def test_the_first_metric_must_be_one_number(run):
    task = {"class_path": "own_before.PerClass", "init_args": {"first": "none"}}
    assert "metric 'accuracy' must be one number" in run(**{"model.task": task}).complaint


def test_a_hook_that_stands_in_for_another_class_is_the_same_class():
    specs = [{"class_path": "a.B", "init_args": {}}, {"class_path": "a.B"}]
    first, second = (RunProvenance(yaml.safe_dump({"model": {"relaxation": spec}}), ()) for spec in specs)

    class Trainer:
        world_size = 1

        class strategy:
            root_device = torch.device("cpu")

    begun = {"callbacks": {first.state_key: {**first.present, "processes": 1}}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.compare(begun, Path("last.ckpt"), Trainer)


FAILING = {
    "deriving": (search, "derive_and_score"),
    "comparing": (results, "check_derived"),
    "drawing": (search, "write_drawings"),
    "the end": (search.RunFolder, "finish"),
}


@pytest.mark.parametrize("stage", FAILING)
def test_whatever_fails_after_training_is_made_up_for(run, run_cli, stage, monkeypatch):
    owner, name = FAILING[stage]
    with monkeypatch.context() as patch:
        right = getattr(owner, name)
        calls = []

        def failing(*args, **options):
            calls.append(name)
            raise RuntimeError("the disk has gone")

        patch.setattr(owner, name, failing)
        assert run().code == 1 and calls
        patch.setattr(owner, name, right)
    derived = run_cli("derive", "--run", "run", "--trust-module", "own_before", "--json")
    assert derived.code == 0 and derived.result["genotype"]
    resumed = run_cli("search", "--resume", "run", "--trust-module", "own_before", "--json")
    assert resumed.code == 0 and resumed.result["genotype"] == derived.result["genotype"]


def test_a_search_that_learned_nothing_says_so(run, run_cli):
    answer = run(**{"model.weight_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}})
    metric = answer.result["metric"]
    assert answer.result["beats_constant"] is (metric["value"] > metric["constant"]) and metric["constant"] >= 0.25
    summary = json.loads(Path("run/summary.json").read_text())
    del summary["checksum"]  # as of a file written by hand
    Path("run/summary.json").write_text(json.dumps({**summary, "beats_constant": False}))
    shown = run_cli("search", "--resume", "run", "--trust-module", "own_before")
    assert "learned nothing: the best constant output has 0." in shown.out


def test_pages_and_left_overs_do_not_end_a_search(run, monkeypatch):
    monkeypatch.setattr(pages, "hyperparameters", lambda values: 1 / 0)
    with pytest.warns(UserWarning, match="the TensorBoard pages of the run cannot be written"):
        assert run().code == 0


def test_a_left_over_temporary_folder_is_removed(original, tmp_path, run_cli):
    shutil.copytree(original, tmp_path / "run")
    for name in ("summary.json", "genotype.json", "manifest.json"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / ".export.abc.tmp").mkdir()
    (tmp_path / "run" / ".export.abc.tmp" / "half").write_text("")
    assert run_cli("search", "--resume", tmp_path / "run").code == 0
    assert not (tmp_path / "run" / ".export.abc.tmp").exists()


def test_a_foreign_file_among_tables_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.json").write_text(json.dumps({"hello": 1}))
    monkeypatch.setattr(results.inspect, "getfile", lambda kind: str(tmp_path / "space.py"))
    monkeypatch.setattr(results, "training_of", lambda values: {})

    class Experiment:
        model, applied = {"space": None}, None

    with pytest.warns(UserWarning, match=r"table ignored: .*mine.json: not a table"):
        assert results.find_table(Experiment()) is None


def test_statistics_of_batch_norms_that_are_not_finite_are_not_saved():
    from nas.tasks import Regression
    from nas.training.retrain_module import RetrainModule

    module = RetrainModule(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)), Regression())
    module.check_weights()
    module.network[1].running_var[0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"network\.1\.running_var is not finite"):
        module.check_weights()
