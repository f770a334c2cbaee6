"""Configured searches of networks with other inputs and outputs than one tensor: padded sequences, several heads, several labels."""

from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, mean_squared_error

import nas
from nas.io.errors import UsageError
from nas.report.content import read_content

OWN = """
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

import nas
from nas.data import SearchDataModule


class Words(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, i):
        words = torch.randint(1, 20, (3 + i % 4,), generator=torch.Generator().manual_seed(i))
        return words, int(words.sum()) % 3


def padded(samples):
    words, labels = zip(*samples)
    return (pad_sequence(words, batch_first=True), torch.tensor([len(w) for w in words])), torch.tensor(labels)


def named(samples):
    (words, lengths), labels = padded(samples)
    return {"lengths": lengths, "words": words}, labels


class Padded(SearchDataModule):
    collate_fn = staticmethod(padded)

    def train_set(self, augment):
        return Words()

    def test_set(self):
        return Words()


class Named(Padded):
    collate_fn = staticmethod(named)


def renamed(samples):
    (words, lengths), labels = padded(samples)
    return {"words": words, "number": lengths}, labels


class Renamed(Padded):
    collate_fn = staticmethod(renamed)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        wide = partial(nn.Sequential, nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.layer = nas.choice("layer", {"wide": wide, "narrow": partial(nn.Linear, 8, 8)})
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, words, lengths):
        x = self.layer(self.embedding(words))
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        x = x + pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=words.shape[1])[0]
        is_word = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        return self.head((x * is_word[..., None]).sum(1) / lengths[:, None])


class Sequences(nas.SearchSpace):
    def network(self, stage="search"):
        return Recurrent()


@dataclass
class Output:
    kind: torch.Tensor
    size: torch.Tensor
    tags: torch.Tensor


class Shared(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.pack = pack
        act = nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh})
        self.body = nn.Sequential(nn.Linear(4, 8), act)
        self.kind, self.size, self.tags = nn.Linear(8, 3), nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.body(x)
        return self.pack(self.kind(x), self.size(x)[:, 0], self.tags(x))


class DictHeads(nas.SearchSpace):
    def network(self, stage="search"):
        return Shared(lambda *heads: vars(Output(*heads)))


class DataHeads(nas.SearchSpace):
    def network(self, stage="search"):
        return Shared(Output)


class TupleHeads(nas.SearchSpace):
    def network(self, stage="search"):
        return Shared(lambda *heads: heads)


class Points(torch.utils.data.Dataset):
    def __init__(self, pack):
        self.pack = pack

    def __len__(self):
        return 24

    def __getitem__(self, i):
        x = torch.randn(4, generator=torch.Generator().manual_seed(i))
        return x, self.pack({"kind": i % 3, "size": x.square().sum(), "tags": (x[:3] > 0).long()})


class Every(SearchDataModule):
    def train_set(self, augment):
        return Points(dict)

    def test_set(self):
        return self.train_set(False)


class EveryTuple(Every):
    def train_set(self, augment):
        return Points(lambda target: tuple(target.values()))


class Kinds(Every):
    def train_set(self, augment):
        return Points(lambda target: target["kind"])


class Tags(Every):
    def train_set(self, augment):
        return Points(lambda target: target["tags"])
"""
TASKS = {
    "kind": {"class_path": "nas.tasks.Classification", "init_args": {"num_classes": 3}},
    "size": {"class_path": "nas.tasks.Regression"},
    "tags": {"class_path": "nas.tasks.MultiLabel", "init_args": {"num_labels": 3}},
}


@pytest.fixture
def search(config):
    """Searches a space of the module above for one epoch."""
    Path("own_shapes.py").write_text(OWN)

    def call(space, data, task, model=(), **overrides):
        changes = {
            "model.space": f"own_shapes.{space}",
            "model.task": task,
            "model.warmup_epochs": 0,
            "trainer.max_epochs": 1,
            "data": {"class_path": f"own_shapes.{data}", "init_args": {"batch_size": 6}},
            "retrain": {},
            **{f"model.{key}": value for key, value in dict(model).items()},
        }
        return nas.search(config(changes), out="run", trust_modules=["own_shapes"], **overrides)

    return call


def samples_of(run):
    """Inputs and targets of the test set."""
    test_set = run.experiment.data.test_set()
    return zip(*[test_set[i] for i in range(24)], strict=True)


@pytest.mark.parametrize("data", ["Padded", "Named"])
def test_padded_sequences_go_to_the_network_with_their_lengths(search, data):
    run = search("Sequences", data, TASKS["kind"], {"num_micro_batches": 2, "cost": {"macs": {"max": 1e6}}})
    layer = {"wide": 2 * 8 * 16, "narrow": 8 * 8}[run.genotype.choices["layer"]]
    macs = 3 * (layer + 2 * 3 * 8 * 8) + 3 * 8  # the first sequence has 3 words
    assert run.summary["cost"]["macs"] == run.summary["target"]["macs"]["table"] == macs
    network, (words, labels) = run.retrain().network().eval(), samples_of(run)
    right = [int(network(w[None], torch.tensor([len(w)])).argmax()) == y for w, y in zip(words, labels, strict=True)]
    assert run.evaluate()["test_accuracy"] == pytest.approx(sum(right) / 24)  # each without padding
    assert run.export(formats=["safetensors"])["verified"]["safetensors"]["ok"]


@pytest.mark.parametrize("pack", ["Dict", "Data", "Tuple"])
def test_heads_are_searched_retrained_and_evaluated(search, pack):
    main = {"Dict": "kind", "Data": "tags", "Tuple": "size"}[pack]
    task = {"class_path": "nas.tasks.Heads", "init_args": {"tasks": TASKS, "main": main, "weights": {"size": 0.1}}}
    run = search(f"{pack}Heads", "EveryTuple" if pack == "Tuple" else "Every", task, {"num_micro_batches": 2})
    names = {"kind": "kind/accuracy", "size": "size/mse", "tags": "tags/f1"}
    assert run.summary["metric"]["name"] == names[main] and run.summary["metric"]["constant"] is not None
    header = Path("run/metrics.csv").read_text().splitlines()[0].split(",")
    assert {f"{split}/{name}" for split in ("weight", "arch") for name in names.values()} <= set(header)
    (x, targets), retrained = samples_of(run), run.retrain()
    with torch.no_grad():
        outputs = retrained.network().eval()(torch.stack(x))
    kind, size, tags = outputs if pack == "Tuple" else outputs.values() if pack == "Dict" else vars(outputs).values()
    y = [list(target.values()) if isinstance(target, dict) else target for target in targets]
    expected = {
        "kind/accuracy": accuracy_score([t[0] for t in y], kind.argmax(1)),
        "size/mse": mean_squared_error([float(t[1]) for t in y], size),
        "tags/f1": f1_score([t[2].tolist() for t in y], tags > 0, average="macro", zero_division=0),
    }
    scores = run.evaluate()
    for name, value in expected.items():
        assert scores[f"test_{name}"] == retrained.summary[f"test_{name}"] == pytest.approx(value, rel=1e-5)  # float32
    assert f"{names[main]} (test set)" in read_content(run.path).retrained


def test_several_labels_and_one_element_of_the_output(search):
    task = {"class_path": "nas.tasks.MultiLabel", "init_args": {"num_labels": 3, "pos_weight": [1, 2, 3], "output": 2}}
    run = search("TupleHeads", "Tags", task)
    (x, tags), retrained = samples_of(run), run.retrain()
    predicted = retrained.network().eval()(torch.stack(x))[2] > 0
    f1 = f1_score(torch.stack(tags), predicted, average="macro", zero_division=0)
    exact = accuracy_score(torch.stack(tags), predicted)
    assert run.evaluate()["test_f1"] == retrained.summary["metric"]["value"] == pytest.approx(f1)
    assert retrained.summary["test_exact_match"] == pytest.approx(exact)


def test_weighted_classes_and_balanced_accuracy(search):
    arguments = {"num_classes": 3, "class_weights": [1, 2, 3], "metric": "balanced_accuracy", "output": "kind"}
    run = search("DictHeads", "Kinds", {"class_path": "nas.tasks.Classification", "init_args": arguments})
    (x, kinds), retrained = samples_of(run), run.retrain()
    predicted = retrained.network().eval()(torch.stack(x))["kind"].argmax(1)
    assert retrained.summary["metric"]["name"] == "balanced_accuracy"
    balanced = balanced_accuracy_score(kinds, predicted)
    assert run.evaluate()["test_balanced_accuracy"] == pytest.approx(balanced)


@pytest.mark.parametrize(
    ("space", "data", "task", "message"),
    [
        ("DictHeads", "Kinds", ("kind", {"class_weights": [1.0]}), "class_weights must be 3 finite numbers above 0"),
        ("DictHeads", "Kinds", ("kind", {}), "the output is a dict of kind, size, tags instead of a tensor"),
        ("DictHeads", "Kinds", ("kind", {"output": "logits"}), "the output has no element 'logits'"),
        ("DictHeads", "Tags", ("kind", {"output": "kind"}), r"got outputs \(2, 3\) and targets \(2, 3\)"),
        ("DictHeads", "Kinds", ("tags", {"output": "tags"}), r"targets of shape \(batch, 3\), got \(2,\)"),
        ("DictHeads", "Every", ("kind", {"output": "kind"}), "the target is a dict of kind, size, tags instead of a tensor"),
        ("DictHeads", "Every", ("heads", {"tasks": {"kind": TASKS["kind"], "age": TASKS["size"]}, "main": "kind"}), "no element 'age'"),
        ("Sequences", "Renamed", ("kind", {}), "inputs are words, number, but Recurrent takes words, lengths by position"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line_before_the_search(search, space, data, task, message):
    known = {**TASKS, "heads": {"class_path": "nas.tasks.Heads"}}[task[0]]
    spec = {**known, "init_args": {**known.get("init_args", {}), **task[1]}}
    with pytest.raises(UsageError, match=message):
        search(space, data, spec)
    assert not Path("run").exists()
