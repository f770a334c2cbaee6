"""Writes an export folder, and checks it before it gets its name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.costs.functions import num_macs, num_params
from nas.drawing import draw_architecture, svg_text
from nas.export.attention import TOLERANCE, fused_attention
from nas.export.batch_norm import Pairs, fold_batch_norms
from nas.export.card import PICTURE, model_card
from nas.export.formats import write_format
from nas.export.huggingface import find_tokenizer, without_cache
from nas.export.manifest import DOCUMENT, EXAMPLES, HUGGINGFACE, MANIFEST, make_manifest
from nas.export.parametrized import fold_parametrizations
from nas.export.subject import Subject, examples
from nas.export.verify import FILES, Report, complaints, verify
from nas.io.errors import UsageError, describe
from nas.io.files import atomic_folder

Rebuild = Callable[[Path], nn.Module]

_MAX_REASON = 300
_PLACE_OR_COLOR = re.compile(r"\x1b\[[0-9;]*m|(?<![\w.:/])/(?:[^\s/\"']+/)+")


class Written(NamedTuple):
    """The result of writing an export folder.

    Attributes:
        report: Result of the check of each format; see :func:`nas.export.verify.verify`.
        refused: Format -> why it was not written.
    """

    report: Report
    refused: Mapping[str, str]


class ExportOptions(NamedTuple):
    """How an export is written.

    Attributes:
        fold_bn: Fold batch norms into the layers before them.
        batch: The only batch size of onnx and pt2; None: any.
        opset: Version of the ONNX operators; None: that of the exporter.
        tokenizer: Goes along in a Hugging Face folder: a tokenizer, or a folder; None: the parent's files, if they are local.
    """

    fold_bn: bool = False
    batch: int | None = None
    opset: int | None = None
    tokenizer: Any = None

    def check(self) -> None:
        """Raises UsageError for a number below 1."""
        for name, number in (("batch", self.batch), ("opset", self.opset)):
            if number is not None and number < 1:
                raise UsageError(f"{name} must be at least 1, got {number}")


AS_IS = ExportOptions()


def write_export(
    subject: Subject,
    formats: Sequence[str],
    out: Path,
    *,
    options: ExportOptions = AS_IS,
    rebuild: Rebuild | None = None,
) -> Written:
    """Writes an export folder without the formats that cannot be written or that fail their check.

    `rebuild` builds the network from config.json and the weights of the folder, for a comparison.

    Raises:
        UsageError: The folder exists, or cannot be created.
        ValueError: No format is left; then no file is left either.
    """
    check_free(out)
    options.check()
    tokenizer = find_tokenizer(options.tokenizer)
    if tokenizer is not None and "huggingface" not in formats:
        raise UsageError("tokenizer: only the format huggingface takes one")
    if options.batch is not None:
        subject = subject.of_batch(options.batch)
    network, places = fold_parametrizations(without_cache(subject.network), subject.inputs)
    macs = num_macs(network, [tensor[:1] for tensor in subject.inputs])
    about = {**subject.about, "params": num_params(network), "macs": macs}
    folded: Pairs = ()
    if options.fold_bn:
        network, folded = fold_batch_norms(network, subject.inputs)
    subject = replace(
        subject,
        network=network,
        unparametrized=places,
        about=about,
        folded=folded,
        opset=options.opset,
        tokenizer=tokenizer,
    )
    with atomic_folder(out) as folder:
        return _fill(subject, formats, folder, rebuild)


def check_free(out: Path) -> None:
    """Raises a UsageError if the path exists, even as a broken link."""
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already; name another folder with --out")


def _fill(subject: Subject, formats: Sequence[str], folder: Path, rebuild: Rebuild | None) -> Written:
    refused: dict[str, str] = {}
    for name in formats:
        try:
            write_format(name, subject, folder)
        except ValueError as error:
            refused[name] = _reason(describe(error), folder)
    written = _remaining(formats, refused, folder)
    expected = examples(subject.network, subject.inputs, subject.batches)
    save_file(expected, folder / EXAMPLES)
    if subject.genotype.choices:
        (folder / PICTURE).write_text(svg_text(draw_architecture(subject.genotype, subject.cells)))
    attention = fused_attention(subject.network, subject.inputs) if "pt2" in written else []
    while True:
        _describe(subject, written, refused, attention if "pt2" in written else [], folder)
        report = verify(folder)
        if rebuild is not None and report.get("safetensors", {}).get("ok"):
            report["safetensors"] |= _rebuilt(rebuild, folder, subject, expected)
        wrong = {name: row["detail"] for name, row in report.items() if not row["ok"]}
        if not wrong:
            return Written(report, refused)
        if set(wrong) - set(written):
            raise ValueError(f"the export failed its check and is not kept: {'; '.join(complaints(report))}")
        refused |= {name: _reason(f"written, but its check failed: {why}", folder) for name, why in wrong.items()}
        written = _remaining(formats, refused, folder)


def _remaining(formats: Sequence[str], refused: Mapping[str, str], folder: Path) -> list[str]:
    """The formats that were not refused; removes files that only refused formats need. A ValueError if no format remains."""
    remaining = [name for name in formats if name not in refused]
    if not remaining:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in refused.items()))
    needed = {file for name in remaining for file in FILES[name]}
    for file in {file for name in refused for file in FILES[name]} - needed:
        (folder / file).unlink(missing_ok=True)
    if "huggingface" in refused:
        shutil.rmtree(folder / HUGGINGFACE, ignore_errors=True)
    return remaining


def _describe(
    subject: Subject, formats: Sequence[str], refused: Mapping[str, str], attention: Sequence[str], folder: Path
) -> None:
    """Writes the model card and the manifest."""
    (folder / "README.md").write_text(model_card(subject, formats, attention))
    about = {
        "refused": dict(refused),
        **subject.about,
        "choices": dict(subject.genotype.choices),
        "folded_batch_norms": len(subject.folded),
        "unparametrized_weights": len(subject.unparametrized),
    }
    if attention:
        about["pt2_tolerance"] = {"relative_to_largest_output": TOLERANCE, "layers": list(attention)}
    DOCUMENT.save(folder / MANIFEST, make_manifest(folder, formats, about))


def _rebuilt(rebuild: Rebuild, folder: Path, subject: Subject, expected: Mapping[str, Tensor]) -> dict[str, Any]:
    """The result of comparing the network that nas.load builds from the folder."""
    try:
        found = examples(without_cache(rebuild(folder)), subject.inputs, subject.batches)
    except Exception as error:  # the code of a space may raise anything
        return {"ok": False, "detail": f"nas.load cannot build the network: {describe(error)}"}
    if list(found) != list(expected) or not all(torch.equal(found[key], expected[key]) for key in expected):
        return {"ok": False, "detail": "the network that nas.load builds differs"}
    detail = f"{len(subject.network.state_dict())} tensors reloaded, outputs bitwise equal"
    return {"ok": True, "detail": detail}


def _reason(text: str, folder: Path) -> str:
    """A short line without paths of this machine, because users share exported files."""
    line = _PLACE_OR_COLOR.sub("", text.replace(f"{folder}{os.sep}", ""))
    return line if len(line) <= _MAX_REASON else f"{line[: _MAX_REASON - 3]}..."
