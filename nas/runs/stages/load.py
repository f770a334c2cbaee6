"""Loads a network from a run or an export."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.export.batch_norm import strip_batch_norms
from nas.export.manifest import CONFIG, MANIFEST, WEIGHTS, broken_files, read_manifest, read_tensors
from nas.export.parametrized import strip_parametrizations
from nas.genotype import Genotype
from nas.io.errors import UsageError, as_usage_error
from nas.io.json_file import read_json
from nas.runs.folder import RunFolder
from nas.runs.networks import fill, read_network
from nas.runs.spaces import load_space, space_spec
from nas.supernet.building import architecture


def load(path: str | Path, *, trust_modules: Sequence[str] = ()) -> nn.Module:
    """The network of a run or an export with its weights, on the CPU and in eval mode.

    For a run, this is the retrained network, otherwise the derived network with inherited weights. For an export, the network is built
    from ``config.json`` and ``model.safetensors``, so the export must have the format safetensors. Code in the folder does not run.

    Args:
        path: A run folder or an export folder.
        trust_modules: Your own modules that the configuration in the folder may name.

    Raises:
        UsageError: The folder is no run and no export, is unfinished or damaged, or names a module that is not trusted.
    """
    folder = Path(path)
    if not _is_export(folder):
        return _read(folder, tuple(trust_modules))[2].eval()
    with torch.random.fork_rng():
        network = _build(folder, read_config(folder), tuple(trust_modules), {})
    return fill(network, read_tensors(folder / WEIGHTS), str(folder)).eval()


def create_model(
    path: str | Path,
    *,
    pretrained: bool = True,
    num_classes: int | None = None,
    in_chans: int | None = None,
    trust_modules: Sequence[str] = (),
) -> nn.Module:
    """An image network of a run or an export, with another number of classes or channels, like ``timm.create_model``.

    Weights are initialized again if their shape changes. For another number of image channels, the weights of a convolution are kept: they
    are summed over the input channels for one channel, and otherwise repeated and scaled, so that activations keep their scale.

    Args:
        path: A run folder or an export folder.
        pretrained: Use the weights in the folder; otherwise all weights are initialized again.
        num_classes: Number of outputs; None: unchanged.
        in_chans: Channels of the images; None: unchanged.
        trust_modules: Your own modules that the configuration in the folder may name.

    Raises:
        UsageError: See :func:`load`; or the space has no argument ``num_classes`` or ``in_channels``.
    """
    folder = Path(path)
    wanted = {"num_classes": num_classes, "in_channels": in_chans}
    changes = {key: value for key, value in wanted.items() if value is not None}
    config, weights = _description(folder, tuple(trust_modules))
    for key in changes:
        if key not in config["space"].get("init_args", {}):
            raise UsageError(f"{path}: {config['space']['class_path']} has no {key}")
    network = _build(folder, config, tuple(trust_modules), changes)
    if pretrained:
        state = network.state_dict()
        for key, tensor in weights.items():
            changed = key in state and state[key].shape != tensor.shape
            state[key] = _adapted(tensor, state[key]) if changed else tensor
        fill(network, state, str(folder))
    return network.train()


def read_config(folder: Path) -> dict[str, Any]:
    """The content of an export's config.json; raises UsageError if a file is missing or differs from the manifest."""
    manifest = read_manifest(folder)
    files = {name: digest for name, digest in manifest["sha256"].items() if name in (CONFIG, WEIGHTS)}
    if len(files) < 2:
        raise UsageError(
            f"{folder}: the export does not have the format safetensors; nas.load needs {CONFIG} and {WEIGHTS}"
        )
    if broken := broken_files(folder, files):
        raise UsageError(f"{folder}: {'; '.join(broken)}")
    config = read_json(folder / CONFIG, f"{folder / CONFIG}: missing")
    space = config.get("space")
    if space is None and "space" in config:
        raise UsageError(
            f"{folder}: the exported network does not come from a search space; call load() in the network.py of the folder"
        )
    if not isinstance(space, dict) or not isinstance(space.get("class_path"), str):
        raise UsageError(f"{folder / CONFIG}: space.class_path is missing")
    if not isinstance(config.get("choices"), dict):
        raise UsageError(f"{folder / CONFIG}: choices are missing")
    return config


def _is_export(folder: Path) -> bool:
    """Whether a folder is an export and not a run, which also has a manifest."""
    return (folder / MANIFEST).is_file() and not (folder / "config.yaml").exists()


def _description(folder: Path, trusted: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration of a network (space, stage, choices), and its weights."""
    if _is_export(folder):
        return read_config(folder), read_tensors(folder / WEIGHTS)
    of, genotype, network = _read(folder, trusted)
    config = {
        "space": space_spec(of.source(trusted), of.stage),
        "stage": of.stage,
        "choices": dict(genotype.choices),
        "folded": [],
    }
    return config, network.state_dict()


def _read(folder: Path, trusted: tuple[str, ...]) -> tuple[RunFolder, Genotype, nn.Module]:
    """The network of a run; restores the caller's random state and threads."""
    python, numpy, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            return read_network(folder, trusted)
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_num_threads(threads)


def _build(folder: Path, config: dict[str, Any], trusted: tuple[str, ...], changes: dict[str, int]) -> nn.Module:
    spec = config["space"]
    spec = {**spec, "init_args": {**spec.get("init_args", {}), **changes}}
    with as_usage_error(str(folder)):
        space = load_space(spec, trusted)
        with architecture(config["choices"]):
            network = space.network(str(config.get("stage", "retrain")))
        strip_parametrizations(network, [(str(path), str(name)) for path, name in config.get("unparametrized", [])])
        strip_batch_norms(network, [(str(layer), str(norm)) for layer, norm in config.get("folded", [])])
    return network


@torch.no_grad()
def _adapted(old: Tensor, fresh: Tensor) -> Tensor:
    """The weights of a convolution adapted to another number of input channels; `fresh` for any other change of shape."""
    if old.dim() != 4 or old.shape[0] != fresh.shape[0] or old.shape[2:] != fresh.shape[2:]:
        return fresh
    wanted, have = fresh.shape[1], old.shape[1]
    if wanted == 1:
        return old.sum(1, keepdim=True)
    repeated = old.repeat(1, -(-wanted // have), 1, 1)[:, :wanted]
    return repeated * (have / wanted)
