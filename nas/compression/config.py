"""The configuration of a compression: a search of a trained network's smaller versions, and the fine-tuning of the found one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.data import SearchDataModule, StreamingDataModule
from nas.evaluation import call_network
from nas.io.errors import UsageError, as_usage_error
from nas.runs.class_paths import import_named
from nas.runs.config import Experiment, load_experiment
from nas.runs.options import ConfigSource, check_yaml
from nas.runs.targets import limits_as_numbers
from nas.runs.trainer import prepare_machine
from nas.supernet.modules import eval_mode
from nas.tasks import Distillation

SPACE = "search_spaces.converted.Converted"
SETTINGS: dict[str, Any] = {
    "trainer": {"max_epochs": 6, "num_images": 0},
    "model": {
        "relaxation": {"class_path": "nas.relaxations.GumbelSoftmax", "init_args": {"hard": True}},
        "tau": {"class_path": "nas.tau.Exponential", "init_args": {"start": 5.0, "end": 0.2}},
        "start_logit": 6.0,
        "weight_optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
        "arch_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1, "betas": [0.5, 0.999]}},
    },
    "retrain": {
        "trainer": {"max_epochs": 4},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
        "scheduler": "cosine",
        "inherit": True,
    },
}
"""Settings of the search and of the fine-tuning, compared on 5,000 held-out training images of Fashion-MNIST."""
TEACHING: dict[str, Any] = {"class_path": "nas.tasks.Distillation", "init_args": {"weight": 0.9}}
"""The task of the fine-tuning, in which the given network teaches the smaller one."""
ARCH_FRACTION = 0.2
"""Share of the training set that chooses the architecture. The weights are trained already."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What to make smaller, and how far.

    Attributes:
        model: Makes the network: a function or class without arguments, as ``my_module:build`` or as a dotted path.
        data: The data: ``my_module:data``, which is a function of :class:`nas.data.TrainTest` or a data module; the dotted path of a data
            module; or an .npz file of :class:`nas.data.Npz`.
        limits: Name of a cost -> largest value. A value of at most 1 is a share of the network's own cost.
        weights: A state dict of the network: a safetensors file, or one of ``torch.save``; None: the weights that `model` makes.
        example: Makes an example of the network's inputs, as ``my_module:example``; None: the first input of the data.
        task: Dotted path of a task; None: classification with the number of classes that the network has.
        epochs: Epochs of the fine-tuning; None: those of the configuration.
        files: Configurations that override the settings.
        overrides: ``--KEY=VALUE`` words that override the files.
        trusted: Modules of the user that the configuration may name, in addition to those named before a colon.
    """

    model: str
    data: str
    limits: Mapping[str, float]
    weights: Path | None = None
    example: str | None = None
    task: str | None = None
    epochs: int | None = None
    files: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last part of the network's name, for the run folder."""
        return self.model.replace(":", ".").rpartition(".")[2]

    def source(self) -> ConfigSource:
        """The configuration of the search.

        Raises:
            UsageError: A part does not exist or does not fit to the others.
        """
        source = self._draft()
        experiment = load_experiment(source)
        with as_usage_error():
            experiment.data.prepare_data()
            inputs, _ = experiment.data.example()
        if self.example is None:
            source = source.merged({"model.space.init_args.input_shape": _shape(inputs)})
        if self.task is None:
            task = _classification(_num_classes(experiment.model["space"].parent, inputs))
            source = source.merged({"model": {"task": task}})
            if isinstance(experiment.retrain.task, Distillation):
                source = source.merged({"retrain": {"task": {"init_args": {"task": task}}}})
        return source.merged({"model.cost": self._cost(load_experiment(source, stage="retrain"))})

    def _draft(self) -> ConfigSource:
        """The configuration without what the data and the network decide: limits, number of classes and shape of the input."""
        named = [self.model, self.data, self.example or "", self.task or ""]
        modules = [name.partition(":")[0] for name in named if ":" in name]
        source = ConfigSource(()).trusting([*self.trusted, *modules])
        for name in (name for name in named if ":" in name):
            import_named(_path(name), source.trusted)  # its errors say more than those of the parser
        example: dict[str, Any] = {"input_shape": []} if self.example is None else {"example": _path(self.example)}
        space: dict[str, Any] = {"builder": _path(self.model), **example}
        if self.weights is not None:
            space["weights"] = str(self.weights.absolute())
        task = _classification(2) if self.task is None else {"class_path": _path(self.task)}
        parts: dict[str, Any] = {"model": {"space": {"class_path": SPACE, "init_args": space}, "task": task}}
        if self.task is None:
            parts["retrain"] = {"task": {**TEACHING, "init_args": {**TEACHING["init_args"], "task": task}}}
        source = source.merged(SETTINGS).merged({**parts, "data": _data(self.data, source.trusted)})
        for path in self.files:
            source = source.merged(check_yaml(path))
        source = source.extended(*self.overrides)
        return source if self.epochs is None else source.overridden("retrain.trainer.max_epochs", self.epochs)

    def _cost(self, retraining: Experiment) -> dict[str, Any]:
        """The limits as numbers: shares are those of the largest network, which is the given one."""
        device = prepare_machine(retraining.trainer)
        return limits_as_numbers(self.limits, retraining, device)[0]


def _classification(num_classes: int) -> dict[str, Any]:
    return {"class_path": "nas.tasks.Classification", "init_args": {"num_classes": num_classes}}


def _path(name: str) -> str:
    return name.replace(":", ".", 1)


def _data(name: str, trusted: tuple[str, ...]) -> dict[str, Any]:
    """Class path and arguments of the data."""
    if name.endswith(".npz"):
        spec: dict[str, Any] = {"class_path": "nas.data.Npz", "init_args": {"path": str(Path(name).absolute())}}
    elif isinstance(found := import_named(_path(name), trusted), type) and issubclass(found, SearchDataModule):
        if not found.__module__.startswith("nas.data.") or issubclass(found, StreamingDataModule):
            return {"class_path": _path(name)}  # a class of the user has its own settings
        spec = {"class_path": _path(name), "init_args": {}}
    else:
        spec = {"class_path": "nas.data.TrainTest", "init_args": {"load": _path(name)}}
    return {**spec, "init_args": {**spec["init_args"], "arch_fraction": ARCH_FRACTION}}


def _shape(inputs: Any) -> list[int]:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        found = str(inputs.dtype) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise UsageError(
            f"data: an input is no tensor of floats but {found}; name a function that makes one by --example"
        )
    return list(inputs.shape[1:])


def _num_classes(parent: Any, inputs: Any) -> int:
    with as_usage_error("model"):
        network: nn.Module = parent()
        with eval_mode(network), torch.no_grad():
            output = call_network(network, inputs)
    if not isinstance(output, Tensor) or output.dim() != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"model: the output is not one score for each class but {found}; name a task by --task")
    return int(output.shape[1])
