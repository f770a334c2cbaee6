import inspect
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import search_spaces.converted  # noqa: F401 -- so that its class is among those that may be named
from nas.io.errors import UsageError
from nas.runs.class_paths import KINDS, import_class, import_function, may_be_named
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource
from nas.runs.spaces import load_space


def nameable():
    """All classes below the listed modules that may be named."""
    found = set()
    for kind in KINDS:
        root = import_module(kind.module)
        names = [info.name for info in walk_packages(getattr(root, "__path__", ()), f"{kind.module}.")]
        for module in [root, *(sys.modules[name] for name in names if name in sys.modules)]:
            found |= {value for value in vars(module).values() if isinstance(value, type) and may_be_named(value)}
    return found


def test_no_class_of_the_list_takes_what_it_would_call():
    classes = nameable()
    assert len(classes) > 150
    parameters = [(cls, parameter) for cls in classes for parameter in inspect.signature(cls).parameters.values()]
    callables = [f"{cls.__name__}.{p.name}" for cls, p in parameters if "Callable" in str(p.annotation)]
    # these take only what may be named, see below
    assert sorted(callables) == ["Converted.builder", "Converted.example", "NetworkSpace.network", "TrainTest.load"]


@pytest.mark.parametrize(
    "network",
    [
        "os.system",
        "subprocess.Popen",
        "torch.load",
        "torch.nn.Linear",
        {"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}},
        {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}},
        {"class_path": "torch.hub.load", "init_args": {}},
        {"class_path": "nas.supernet.network_space.NetworkSpace", "init_args": {"network": "os.getcwd"}},
    ],
)
def test_a_space_of_networks_makes_only_what_a_trusted_module_defines(network):
    converted = "search_spaces.converted.Converted"
    for spec in (
        {"class_path": "nas.supernet.network_space.NetworkSpace", "init_args": {"network": network}},
        {"class_path": converted, "init_args": {"builder": network, "input_shape": [2]}},
        {"class_path": converted, "init_args": {"builder": "torch.nn.Identity", "example": network}},
    ):
        with pytest.raises(UsageError) as caught:
            load_space(spec, ())
        assert "\n" not in str(caught.value)
    data = {"class_path": "nas.data.TrainTest", "init_args": {"load": network}}
    with pytest.raises(UsageError):
        _ = load_experiment(ConfigSource((Path("configs/dilation_digits.yaml"),)).merged({"data": data})).data


@pytest.mark.parametrize(
    "path",
    [
        "nas.tau.Exponential.forward",
        "nas.data.vision.datasets",
        "nas.tasks.classification.F.cross_entropy",
        "torch.optim.swa_utils.get_ema_avg_fn",
        "torch.nn.Module",
        "torch.nn.Linear",
        "torch.optim.lr_scheduler.LambdaLR",
        "torchvision.transforms.v2.Lambda",
        "torchvision.transforms.Lambda",
        "torchvision.transforms.v2.RandomApply",
        "pytorch_lightning.callbacks.LambdaCallback",
        "pytorch_lightning.loggers.WandbLogger",
        "torchmetrics.classification.BinaryAccuracy.update",
        "nas.runs.trainer.TrainerOptions",
        "nas.io.files.write_atomic",
        "subprocess.Popen",
        "nas",
        "",
        "nas..tau",
    ],
)
def test_what_is_not_in_the_list_is_refused(path):
    with pytest.raises(UsageError):
        import_class(path)


@pytest.mark.parametrize(
    "path", ["torch.nn.CrossEntropyLoss", "torch.optim.AdamW", "torchmetrics.classification.F1Score"]
)
def test_what_is_in_the_list_is_found(path):
    assert import_class(path).__name__ == path.rpartition(".")[2]


OWN = """
import os
from subprocess import Popen

import torch
from torch.nn.functional import relu

import nas
from search_spaces.dilation import DilationNet1d


class Space(nas.SearchSpace):
    def __init__(self, activation=relu, dilations=(1, 8)):
        self.inner = DilationNet1d(num_layers=2, channels=4, dilations=dilations)

    def network(self, stage="search"):
        return self.inner.network(stage)


def optimizer(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def cost(network, inputs):
    return 1.0
"""


def test_a_module_of_ones_own_gives_classes_builders_and_costs(run_cli, config, tmp_path):
    (tmp_path / "own_parts.py").write_text(OWN)
    changes = {
        "model.space": "own_parts.Space",
        "model.weight_optimizer": "own_parts.optimizer",
        "model.cost": {"own_parts.cost": {"max": 2}},
    }
    assert "--trust-module own_parts" in run_cli("profile", "--config", config(changes)).complaint
    assert (
        run_cli("profile", "--config", config(changes), "--trust-module", "own_parts", "--json").result[
            "num_architectures"
        ]
        == 4
    )


@pytest.mark.parametrize("name", ["Popen", "os.system", "DilationNet1d.network", "relu"])
def test_what_a_trusted_module_only_imports_is_not_trusted(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_imports.py").write_text(OWN)
    for find in (import_class, import_function):
        with pytest.raises(UsageError):
            find(f"own_imports.{name}", ["own_imports"])
