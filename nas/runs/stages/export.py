"""Exports the network of a run or of a genotype file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas.evaluation import as_args
from nas.export.formats import DEFAULT, check_formats
from nas.export.huggingface import is_pretrained
from nas.export.subject import Subject, example_inputs
from nas.export.write import AS_IS, ExportOptions, check_free, write_export
from nas.genotype import Genotype
from nas.io.errors import UsageError, as_usage_error
from nas.io.versions import versions
from nas.runs.build import build_network
from nas.runs.config import Experiment, load_experiment
from nas.runs.folder import RunFolder
from nas.runs.networks import find_network
from nas.runs.options import ConfigSource
from nas.runs.own.stages import read_own
from nas.runs.spaces import read_genotype_of
from nas.runs.stages.load import load
from nas.runs.trainer import prepare_machine
from nas.supernet.base import ChoiceModule
from nas.supernet.modules import copied
from nas.supernet.supernet import Supernet


def export_run(
    path: Path,
    formats: Sequence[str],
    out: Path | None,
    *,
    options: ExportOptions = AS_IS,
    trusted: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Exports the retrained network of a run, otherwise the derived network with inherited weights.

    `path` is the folder of a search or a retraining. `out` is the folder to make; None: ``export`` inside the run folder.

    Raises:
        UsageError: The run is not finished, a format is unknown, or the folder exists.
        ValueError: No format can hold the network. No files remain.
    """
    chosen = check_formats(formats)
    out = out if out is not None else RunFolder.open(path).path / "export"
    check_free(out)
    if RunFolder.open(path).is_own_code:
        return _export_own(path, chosen, out, options, trusted)
    found = find_network(path, trusted)
    found.check_plain()
    about = {"origin": found.origin, "stage": found.folder.stage, "metric": found.folder.read_summary()["metric"]}
    return _export(found.network, found.genotype, found.experiment, about, chosen, out, options)


def export_genotype(
    genotype: Path,
    source: ConfigSource,
    formats: Sequence[str],
    out: Path,
    *,
    options: ExportOptions = AS_IS,
) -> dict[str, Any]:
    """Exports the network of a genotype file, initialized from the seed of the configuration.

    Raises:
        UsageError: The genotype belongs to another space, a format is unknown, or the folder exists.
        ValueError: No format can hold the network. No files remain.
    """
    chosen = check_formats(formats)
    check_free(out)
    experiment = load_experiment(source, stage="retrain")
    found = read_genotype_of(genotype, experiment)
    prepare_machine(experiment.trainer)
    about = {"origin": "not trained, drawn from the seed", "stage": "retrain", "metric": None}
    return _export(build_network(experiment, found), found, experiment, about, chosen, out, options)


def export_network(
    network: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    out: str | Path,
    *,
    genotype: Genotype | None = None,
    formats: Sequence[str] = ("python", "safetensors", "pt2"),
    fold_bn: bool = False,
    batch: int | None = None,
    opset: int | None = None,
    tokenizer: Any = None,
) -> dict[str, Any]:
    """Exports any plain network, for example a derived network from your own training loop.

    Args:
        network: A network without choices; it is not changed.
        inputs: A batch of inputs: a tensor, or one tensor for each positional argument. The first dimension is the batch dimension.
        out: The folder to make.
        genotype: The architecture, for the format genotype, the picture and the model card.
        formats: Some of genotype, python, safetensors, onnx, pt2 and huggingface.
        fold_bn: Fold batch norms into the layers before them.
        batch: The only batch size of onnx and pt2; None: any.
        opset: Version of the ONNX operators; None: that of the exporter.
        tokenizer: Goes along in the format huggingface: a tokenizer, or its folder; None: the parent's files, if local.

    Returns:
        Format -> result of the check in a fresh interpreter; see :func:`nas.export.verify.verify`. A format that cannot hold the network
        has the result ``{"ok": False, "detail": "refused: ..."}`` and no files. The other formats are written.

    Raises:
        ValueError: The network has choices, a format is unknown, the folder exists, or no format can hold the network.
    """
    chosen, out = check_formats(formats), Path(out)
    if "genotype" in chosen and genotype is None:
        raise UsageError("the format genotype needs the architecture; pass the argument genotype")
    if any(isinstance(module, (ChoiceModule, Supernet)) for module in network.modules()):
        raise UsageError("the network contains choices; export the network that supernet.derive(genotype) returns")
    plain = copied(network).cpu().eval()
    args = example_inputs((inputs,) if isinstance(inputs, Tensor) else tuple(inputs))
    facts = {
        **dict.fromkeys(("stage", "metric", "space", "task", "data", "seed")),
        "title": type(network).__name__,
        "origin": "taken from the exported network",
        "input": _described(args, ""),
        "versions": versions(),
    }
    subject = Subject(plain, genotype or Genotype({}), args, facts)
    written = write_export(subject, chosen, out, options=ExportOptions(fold_bn, batch, opset, tokenizer))
    return written.report | {name: {"ok": False, "detail": f"refused: {why}"} for name, why in written.refused.items()}


def _export(
    network: nn.Module,
    genotype: Genotype,
    experiment: Experiment,
    about: Mapping[str, Any],
    formats: Sequence[str],
    out: Path,
    options: ExportOptions,
) -> dict[str, Any]:
    network, data = network.cpu().eval(), experiment.data
    with as_usage_error(type(data).__name__):
        inputs, _ = next(iter(data.weight_loader()))
    inputs = example_inputs(as_args(inputs, network))
    model = experiment.applied["model"]
    facts = {
        **about,
        "title": model["space"]["class_path"].rpartition(".")[2],
        "space": model["space"],
        "task": experiment.values["retrain"]["task"] or model["task"],
        "data": _public(experiment.applied["data"]),
        "input": _described(inputs, data.preprocessing),
        "seed": experiment.seed,
        "versions": versions(),
    }
    genotype = replace(genotype, space=experiment.values["model"]["space"])
    cells = experiment.model["space"].cells(genotype.choices)
    subject = Subject(network, genotype, inputs, facts, cells=cells)
    return _written(subject, formats, out, options, experiment.trusted)


def _export_own(
    path: Path, formats: Sequence[str], out: Path, options: ExportOptions, trusted: tuple[str, ...]
) -> dict[str, Any]:
    """Exports the network of a search in training code of the user."""
    own = read_own(path, trusted)
    with as_usage_error():
        inputs = example_inputs(own.by_position())
    facts = {
        **dict.fromkeys(("task", "data")),
        "origin": "derived, inherited weights",
        "stage": "search",
        "metric": own.summary["metric"],
        "title": type(own.network).__name__,
        "space": own.genotype.space,
        "input": _described(inputs, ""),
        "seed": own.summary.get("seed"),
        "versions": versions(),
    }
    subject = Subject(own.network, own.genotype, inputs, facts)
    return _written(subject, formats, out, options, trusted)


def _written(
    subject: Subject, formats: Sequence[str], out: Path, options: ExportOptions, trusted: tuple[str, ...]
) -> dict[str, Any]:
    if tuple(formats) == DEFAULT and is_pretrained(subject.network):
        formats = (*DEFAULT, "huggingface")
    written = write_export(subject, formats, out, options=options, rebuild=partial(load, trust_modules=trusted))
    there = [name for name in formats if name not in written.refused]
    return {"export": str(out), "formats": there, "verified": written.report, "refused": dict(written.refused)}


def _described(inputs: Sequence[Tensor], preprocessing: str) -> dict[str, Any]:
    return {
        "shapes": [["batch", *tensor.shape[1:]] for tensor in inputs],
        "dtypes": [str(tensor.dtype).removeprefix("torch.") for tensor in inputs],
        "preprocessing": preprocessing,
    }


def _public(spec: Any) -> Any:
    """Values of a configuration without local paths."""
    if isinstance(spec, Mapping):
        return {key: _public(value) for key, value in spec.items() if not _is_place(value)}
    return [_public(item) for item in spec if not _is_place(item)] if isinstance(spec, list) else spec


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "./", "../")) or os.sep in value)
