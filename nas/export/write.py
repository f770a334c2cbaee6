"""Writing a whole export folder, proven before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from nas.drawing import draw_architecture, svg_text
from nas.errors import UsageError
from nas.export.batch_norm import fold_batch_norms
from nas.export.card import PICTURE, model_card
from nas.export.formats import write_format
from nas.export.manifest import EXAMPLES, MANIFEST, make_manifest
from nas.export.subject import Subject, examples
from nas.export.verify import Report, complaints, verify
from nas.files import appearing, write_json


def write_export(
    subject: Subject,
    formats: Sequence[str],
    out: Path,
    *,
    fold_bn: bool = False,
    rebuild: Callable[[Path], nn.Module] | None = None,
) -> Report:
    """Writes an export folder, checks it, and only then gives it its name.

    Args:
        subject: What to export.
        formats: Names, checked.
        out: The folder; it must not exist.
        fold_bn: Make batch norms part of the layers before them.
        rebuild: Builds the network from the folder's config.json and weights, to be compared as well; None: nothing can.

    Returns:
        What the check said; see :func:`nas.export.verify.verify`.

    Raises:
        UsageError: The folder exists, or cannot be made.
        ValueError: The network cannot be written in a format, or what was written computes something else.
    """
    check_free(out)
    if fold_bn:
        network, folded = fold_batch_norms(subject.network, subject.inputs)
        subject = replace(subject, network=network, folded=folded)
    with appearing(out) as folder:
        return _fill(subject, formats, folder, rebuild)


def check_free(out: Path) -> None:
    """Raises UsageError where there is something of that name, be it a broken link."""
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already; name another folder with --out")


def _fill(
    subject: Subject, formats: Sequence[str], folder: Path, rebuild: Callable[[Path], nn.Module] | None
) -> Report:
    for name in formats:
        write_format(name, subject, folder)
    expected = examples(subject.network, subject.inputs)
    save_file(expected, folder / EXAMPLES)
    if subject.genotype.choices:
        (folder / PICTURE).write_text(svg_text(draw_architecture(subject.genotype, subject.cells)))
    (folder / "README.md").write_text(model_card(subject, formats))
    about = {**subject.about, "choices": dict(subject.genotype.choices), "folded_batch_norms": len(subject.folded)}
    write_json(folder / MANIFEST, make_manifest(folder, formats, about))
    report = verify(folder)
    if rebuild is not None and report.get("safetensors", {}).get("ok"):
        found = examples(rebuild(folder), subject.inputs)
        same = list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
        report["safetensors"]["ok"] = same
        report["safetensors"]["detail"] += (
            ", outputs bitwise equal" if same else ", but the network that nas.load builds differs"
        )
    if wrong := complaints(report):
        raise ValueError(f"the export was written but does not hold, so it is not kept: {'; '.join(wrong)}")
    return report
