"""Writers of the formats of an export."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nas.export.huggingface import save_pretrained
from nas.export.manifest import CONFIG, HUGGINGFACE, WEIGHTS, own_tensors
from nas.export.python import network_source
from nas.export.subject import Subject
from nas.export.verify import describe_tensors
from nas.io.errors import UsageError, describe
from nas.io.files import sha256

DEFAULT = ("genotype", "python", "safetensors", "pt2")
"""Formats that need nothing beyond the core install."""
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "huggingface": ("transformers",)}
"""Packages of the other formats."""


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats without repetitions; a UsageError for no format, an unknown one, or one whose package is not installed."""
    chosen = tuple(dict.fromkeys(formats))
    if not chosen:
        raise UsageError(f"--formats: name at least one of {', '.join(WRITERS)}")
    for name in chosen:
        if name not in WRITERS:
            raise UsageError(f"--formats: unknown format {name!r:.80}; there are {', '.join(WRITERS)}")
    for name in chosen:
        if missing := [package for package in _PACKAGES.get(name, ()) if not find_spec(package)]:
            raise UsageError(f"--formats: {name} needs {', '.join(missing)}: pip install 'gumbel-nas[{name}]'")
    return chosen


def write_format(name: str, subject: Subject, folder: Path) -> None:
    """Writes the files of one format.

    Raises:
        ValueError: The format cannot represent the network.
        OSError: The system reports an error, for example a full disk.
    """
    try:
        WRITERS[name](subject, folder)
    except Exception as error:  # exporters and networks may raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        cause: BaseException = error
        while isinstance(cause, torch.onnx.OnnxExporterError) and cause.__cause__ is not None:
            cause = cause.__cause__  # the message of torch.onnx itself is a page of advice
        raise ValueError(describe(cause)) from error


def _genotype(subject: Subject, folder: Path) -> None:
    subject.genotype.save(folder / "genotype.json")


def _python(subject: Subject, folder: Path) -> None:
    _weights(subject, folder)
    source = network_source(subject.network, _provenance(subject), sha256(folder / WEIGHTS))
    (folder / "network.py").write_text(source)


def _provenance(subject: Subject) -> str:
    about, rows = subject.about, subject.genotype.rows()
    found = f", found by neural architecture search in {about['space']['class_path']}" if about["space"] else ""
    lines = [f"{about['title']}{found}.", ""]
    if rows:
        lines += ["Architecture:", *[f"    {name}: {chosen}" for name, chosen, _ in rows], ""]
    tools = ", ".join(f"{name} {about['versions'][name]}" for name in ("gumbel-nas", "torch"))
    lines.append(f"Weights: {about['origin']}." + ("" if about["seed"] is None else f" Seed {about['seed']}; {tools}."))
    if metric := about["metric"]:
        lines.append(f"{metric['name']} ({metric['split']} split): {metric['value']:.4f}.")
    lines.append(f"{about['params']:,} parameters, {about['macs']:,} MACs.")
    return "\n".join(lines)


def _safetensors(subject: Subject, folder: Path) -> None:
    _weights(subject, folder)
    config = {
        "model_type": "gumbel-nas",
        "architectures": ["Network"],
        **{key: subject.about[key] for key in ("space", "stage", "input", "task")},
        "choices": dict(subject.genotype.choices),
        "folded": [list(pair) for pair in subject.folded],
        "unparametrized": [list(place) for place in subject.unparametrized],
        "tensors": describe_tensors(subject.network.state_dict()),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")


def _weights(subject: Subject, folder: Path) -> None:
    path = folder / WEIGHTS
    if not path.exists():
        save_file(own_tensors(subject.network), path, metadata={"format": "pt"})


def _program(subject: Subject) -> torch.export.ExportedProgram:
    """The network as a graph, without the paths of the source files that its operations come from."""
    program = torch.export.export(subject.network, subject.inputs, dynamic_shapes=_dynamic(subject))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def _pt2(subject: Subject, folder: Path) -> None:
    with _quiet():
        torch.export.save(_program(subject), folder / "model.pt2")


def _onnx(subject: Subject, folder: Path) -> None:
    names = [f"input{i}" if i else "input" for i in range(len(subject.inputs))]
    with _quiet():
        torch.onnx.export(
            _program(subject),
            (),
            folder / "model.onnx",
            dynamo=True,
            external_data=False,
            input_names=names,
            output_names=["output"],
            opset_version=subject.opset,
        )


def _dynamic(subject: Subject) -> tuple[Any, ...] | None:
    """Makes the batch dimension dynamic, and equal in all inputs; None for an export of one batch size."""
    if len(subject.batches) == 1:
        return None
    batch = torch.export.Dim("batch")
    shapes: tuple[Any, ...] = tuple({0: batch} for _ in subject.inputs)
    kinds = [parameter.kind for parameter in inspect.signature(subject.network.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    number = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:number], shapes[number:])  # torch.export takes those of *args as one


def _huggingface(subject: Subject, folder: Path) -> None:
    save_pretrained(subject.network, folder / HUGGINGFACE, subject.tokenizer)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the messages of exporters."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


WRITERS: Mapping[str, Callable[[Subject, Path], None]] = {
    "genotype": _genotype,
    "python": _python,
    "safetensors": _safetensors,
    "onnx": _onnx,
    "pt2": _pt2,
    "huggingface": _huggingface,
}
