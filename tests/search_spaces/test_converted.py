import importlib
import json
from pathlib import Path

import pytest
import torch
from convertible import MODELS, made
from safetensors.torch import save_file
from torch import nn

import nas
from nas.io.checkpoint_io import load
from nas.io.errors import UsageError
from nas.testing import check_search_space
from search_spaces.converted import Converted

NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, channels: int):
        super().__init__(
            nn.Conv1d(1, channels, 3, padding=1), nn.BatchNorm1d(channels), nn.ReLU(),
            nn.Conv1d(channels, channels, 3, padding=1), nn.BatchNorm1d(channels), nn.ReLU(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, 10),
        )
"""


@pytest.mark.parametrize("name", ["residual", "dense", "mixer"])
def test_space_keeps_the_rules(name):
    torch.manual_seed(0)
    build, inputs, _ = MODELS[name]
    check_search_space(Converted(build, example=inputs), inputs(), num_architectures=4)


def test_a_network_of_keyword_inputs():
    model, args, kwargs = made("transformer")
    space = Converted(lambda: model, example=lambda: {"ids": args[0], **kwargs})
    supernet = nas.Supernet(space.network())
    choices = {name: labels[0] for name, labels in supernet.choices.items()}
    with nas.architecture(choices):
        small = space.network("retrain")
    derived = supernet.derive(choices)
    assert torch.equal(small(*args, **kwargs)["logits"], derived(*args, **kwargs)["logits"]), "it has the weights"


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_of_a_file(name, tmp_path):
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    if name.endswith("pt"):
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / name)
    else:
        save_file(model.state_dict(), tmp_path / name)
    space = Converted(lambda: nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)), str(tmp_path / name), [2])
    assert torch.equal(space.network()[0].weight, model[0].weight)


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04junk", {"other": torch.zeros(1)}, [1], nn.Linear(1, 1)])
def test_weights_that_do_not_fit(content, tmp_path):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights\.pt: weights of Sequential: [^\n]+$"):
        Converted(lambda: nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 1)), str(path), [2]).network()


def test_an_example_is_needed_once():
    for options in ({}, {"input_shape": [2], "example": lambda: ()}):
        with pytest.raises(ValueError, match="give one of input_shape and example"):
            Converted(nn.Identity, **options)


def test_a_search_in_python_is_taught_by_the_network_itself():
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
    task = nas.tasks.Distillation()
    options = {"relaxation": nas.relaxations.GumbelSoftmax(), "tau": nas.tau.Constant(1.0)}
    nas.SearchModule(space=Converted(lambda: model, input_shape=[2]), task=task, **options)
    x = torch.randn(4, 2)
    assert torch.equal(task.prepare((x,), None).output, model(x))


CLASSES = {"class_path": "nas.tasks.Classification", "init_args": {"num_classes": 10}}


@pytest.mark.parametrize(
    "task",
    [
        CLASSES,
        {"class_path": "nas.tasks.Distillation"},
        {"class_path": "nas.tasks.Distillation", "init_args": {"task": CLASSES}},
        {"class_path": "nas.tasks.Distillation", "init_args": {"task": CLASSES, "features": ["0", "3"]}},
    ],
    ids=["labels", "parent", "both", "features"],
)
def test_a_configured_search_within_a_limit(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trained_net.py").write_text(NET)
    torch.manual_seed(0)
    save_file(importlib.import_module("trained_net").Net(16).state_dict(), "parent.safetensors")
    builder = {"class_path": "trained_net.Net", "init_args": {"channels": 16}}
    space = {"builder": builder, "weights": "parent.safetensors", "input_shape": [1, 64], "multiple": 4}
    config = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 2, "num_images": 0},
        "model": {
            "space": {"class_path": "search_spaces.converted.Converted", "init_args": space},
            "relaxation": "nas.relaxations.GumbelSoftmax",
            "tau": "nas.tau.Exponential",
            "task": task,
            "cost": {"macs": {"max": 20_000}},
        },
        "data": {"class_path": "nas.data.SequentialDigits", "init_args": {"batch_size": 256}},
        "retrain": {"trainer": {"max_epochs": 1}},
    }
    Path("config.yaml").write_text(json.dumps(config))  # JSON is YAML
    with pytest.raises(UsageError, match="add --trust-module trained_net"):
        nas.search("config.yaml", out="run")
    run = nas.search(nas.ConfigSource((Path("config.yaml"),), (), ("trained_net",)), out="run")
    assert run.genotype.choices.keys() == {"0", "3"}
    small = run.network()
    first, second = small[0].out_channels, small[3].out_channels
    assert 64 * 3 * (first + first * second) + 10 * second <= 20_000
    again = run.retrain(inherit=True)
    assert again.network()[3].out_channels == second
    metric = json.loads((again.path / "summary.json").read_text())["metric"]
    assert metric["name"] == ("agreement" if task.get("init_args") is None else "accuracy")
    assert not any("parent" in name for name in load(run.path / "checkpoints/last.ckpt")["state_dict"])
