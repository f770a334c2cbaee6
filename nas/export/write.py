"""Writing a whole export folder, proven before it gets its name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.costs.functions import num_macs, num_params
from nas.drawing import draw_architecture, svg_text
from nas.export.attention import fused_attention
from nas.export.batch_norm import fold_batch_norms
from nas.export.card import PICTURE, model_card
from nas.export.formats import write_format
from nas.export.manifest import DOCUMENT, EXAMPLES, MANIFEST, make_manifest, pt2_tolerance
from nas.export.parametrized import fold_parametrizations
from nas.export.subject import Subject, examples
from nas.export.verify import FILES, Report, complaints, verify
from nas.io.errors import UsageError, describe
from nas.io.files import atomic_folder

Rebuild = Callable[[Path], nn.Module]

_MAX_REASON = 300
_PLACE_OR_COLOR = re.compile(r"\x1b\[[0-9;]*m|(?<![\w.:/])/(?:[^\s/\"']+/)+")


@dataclass(frozen=True)
class Written:
    """An export folder that was written.

    Attributes:
        report: What the check said of each format that is there; see :func:`nas.export.verify.verify`.
        refused: Format -> why it is not there.
    """

    report: Report
    refused: Mapping[str, str]


def write_export(
    subject: Subject, formats: Sequence[str], out: Path, *, fold_bn: bool = False, rebuild: Rebuild | None = None
) -> Written:
    """Writes an export folder, checks it, and only then gives it its name.

    A format that refuses, or whose files do not hold, is left out; the others are written.

    Args:
        subject: What to export; weights that something computes are written as plain ones.
        formats: Names, checked.
        out: The folder; it must not exist.
        fold_bn: Make batch norms part of the layers before them.
        rebuild: Builds the network from the folder's config.json and weights, to be compared as well; None: nothing can.

    Raises:
        UsageError: The folder exists, or cannot be made.
        ValueError: The network cannot be written in any of the formats; nothing is left behind.
    """
    check_free(out)
    subject = _plain(subject)
    if fold_bn:
        network, folded = fold_batch_norms(subject.network, subject.inputs)
        subject = replace(subject, network=network, folded=folded)
    with atomic_folder(out) as folder:
        return _fill(subject, formats, folder, rebuild)


def check_free(out: Path) -> None:
    """Raises UsageError where there is something of that name, be it a broken link."""
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already; name another folder with --out")


def _plain(subject: Subject) -> Subject:
    """The subject without parametrizations, and with what the plain network costs."""
    network, places = fold_parametrizations(subject.network, subject.inputs)
    macs = num_macs(network, [tensor[:1] for tensor in subject.inputs])
    about = {**subject.about, "params": num_params(network), "macs": macs}
    return replace(subject, network=network, unparametrized=places, about=about)


def _fill(subject: Subject, formats: Sequence[str], folder: Path, rebuild: Rebuild | None) -> Written:
    refused = _write_formats(subject, formats, folder)
    expected = examples(subject.network, subject.inputs)
    save_file(expected, folder / EXAMPLES)
    if subject.genotype.choices:
        (folder / PICTURE).write_text(svg_text(draw_architecture(subject.genotype, subject.cells)))
    attention = fused_attention(subject.network, subject.inputs) if "pt2" in _left(formats, refused) else []
    while True:
        written = _left(formats, refused)
        _describe(subject, written, refused, attention, folder)
        report = verify(folder)
        if rebuild is not None and report.get("safetensors", {}).get("ok"):
            report["safetensors"] |= _rebuilt(rebuild, folder, subject, expected)
        wrong = {name: row["detail"] for name, row in report.items() if not row["ok"]}
        if not wrong:
            return Written(report, refused)
        if set(wrong) - set(written):
            raise ValueError(
                f"the export was written but does not hold, so it is not kept: {'; '.join(complaints(report))}"
            )
        refused |= {name: _reason(f"written, but does not hold: {why}", folder) for name, why in wrong.items()}
        _remove(wrong, _left(formats, refused), folder)  # and then all that is left is checked again


def _write_formats(subject: Subject, formats: Sequence[str], folder: Path) -> dict[str, str]:
    """Writes what can be; returns what refused, and why."""
    refused: dict[str, str] = {}
    for name in formats:
        try:
            write_format(name, subject, folder)
        except ValueError as error:
            refused[name] = _reason(describe(error), folder)
    _remove(refused, _left(formats, refused), folder)
    return refused


def _left(formats: Sequence[str], refused: Mapping[str, str]) -> list[str]:
    """The formats that did not refuse.

    Raises:
        ValueError: All did.
    """
    if left := [name for name in formats if name not in refused]:
        return left
    raise ValueError("; ".join(f"{name}: {why}" for name, why in refused.items()))


def _remove(formats: Iterable[str], left: Sequence[str], folder: Path) -> None:
    """Removes the files of formats, but for those that others need."""
    needed = {file for name in left for file in FILES[name]}
    for file in {file for name in formats for file in FILES[name]} - needed:
        (folder / file).unlink(missing_ok=True)


def _describe(
    subject: Subject, formats: Sequence[str], refused: Mapping[str, str], attention: Sequence[str], folder: Path
) -> None:
    """Writes the model card and the manifest of what is there."""
    attention = attention if "pt2" in formats else ()
    (folder / "README.md").write_text(model_card(subject, formats, attention))
    about = {
        "refused": dict(refused),
        **subject.about,
        "choices": dict(subject.genotype.choices),
        "folded_batch_norms": len(subject.folded),
        "unparametrized_weights": len(subject.unparametrized),
        **({"pt2_tolerance": pt2_tolerance(attention)} if attention else {}),
    }
    DOCUMENT.save(folder / MANIFEST, make_manifest(folder, formats, about))


def _rebuilt(rebuild: Rebuild, folder: Path, subject: Subject, expected: Mapping[str, Tensor]) -> dict[str, Any]:
    """Whether nas.load builds the network from the folder."""
    try:
        found = examples(rebuild(folder), subject.inputs)
    except Exception as error:  # whatever the code of a space raises
        return {"ok": False, "detail": f"nas.load cannot build the network: {describe(error)}"}
    same = list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    detail = f"{len(subject.network.state_dict())} tensors reloaded, outputs bitwise equal"
    return {"ok": same, "detail": detail if same else "the network that nas.load builds differs"}


def _reason(text: str, folder: Path) -> str:
    """A short line without places on this machine: it goes into files that are passed on."""
    line = _PLACE_OR_COLOR.sub("", text.replace(f"{folder}{os.sep}", ""))
    return line if len(line) <= _MAX_REASON else f"{line[: _MAX_REASON - 3]}..."
