"""Checks of an export folder: its files, and their outputs in an interpreter that cannot import this framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import Tensor

from nas.export.manifest import (
    CONFIG,
    EXAMPLES,
    HUGGINGFACE,
    WEIGHTS,
    broken_files,
    machine,
    read_manifest,
    read_tensors,
)
from nas.export.subject import largest_difference
from nas.genotype import Genotype
from nas.io.errors import UsageError, describe
from nas.io.json_file import read_json

TOLERANCE = 1e-5
"""Largest difference of an output of ONNX or transformers, relative to the largest output or to 1."""
OTHER_MACHINE = 1e-4
"""The same for an export from another kind of machine or another torch, whose last bits may differ."""
TIMEOUT_SECONDS = 1800

FILES: Mapping[str, tuple[str, ...]] = {
    "genotype": ("genotype.json",),
    "python": ("network.py", WEIGHTS),
    "safetensors": (WEIGHTS, CONFIG),
    "onnx": ("model.onnx",),
    "pt2": ("model.pt2",),
    "huggingface": (f"{HUGGINGFACE}/{CONFIG}", f"{HUGGINGFACE}/{WEIGHTS}"),
}
RUNNABLE = ("python", "pt2", "onnx", "huggingface")
"""The formats that run in a fresh interpreter."""
SCRIPT = Path(__file__).with_name("fresh.py")
"""Runs exported files in a separate interpreter."""

Report = dict[str, dict[str, Any]]


def verify(folder: Path) -> Report:
    """Checks the files and formats of an export folder; this runs its Python files.

    Format (``files`` for the files themselves) -> ``{"ok": bool, "detail": str}``, with ``max_abs_diff`` if outputs were compared.
    """
    manifest = read_manifest(folder)
    formats, files = manifest["formats"], manifest["sha256"]
    broken = broken_files(folder, files)
    listed = {EXAMPLES, *(file for name in formats for file in FILES.get(name, ()))}
    broken += [f"{name}: not in the manifest" for name in sorted(listed - set(files))]
    broken += [f"unknown format {name!r:.80}" for name in formats if name not in FILES]
    report: Report = {"files": _result("; ".join(broken), f"{len(files)} files as they were written")}
    if broken:
        return report
    if "genotype" in formats:
        report["genotype"] = _genotype(folder, manifest)
    if "safetensors" in formats:
        report["safetensors"] = _safetensors(folder)
    # a pt2 file must load without transformers, which the check of huggingface imports
    runnable = sorted((name for name in formats if name in RUNNABLE), key="huggingface".__eq__)
    return report | (_outputs(folder, runnable, manifest) if runnable else {})


def complaints(report: Report) -> list[str]:
    """A line for each check that failed."""
    return [f"{name}: {row['detail']}" for name, row in report.items() if not row["ok"]]


def _result(problem: str, detail: str = "") -> dict[str, Any]:
    return {"ok": not problem, "detail": problem or detail}


def _genotype(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    try:
        genotype = Genotype.load(folder / "genotype.json")
    except UsageError as error:
        return _result(str(error))
    if dict(genotype.choices) != manifest.get("choices"):
        return _result("genotype.json: its choices differ from those in the manifest")
    return _result("", "read back equal")


def _safetensors(folder: Path) -> dict[str, Any]:
    """Compares keys, types and shapes of the tensors with config.json."""
    try:
        listed = read_json(folder / CONFIG, f"{CONFIG}: missing").get("tensors")
        found = describe_tensors(read_tensors(folder / WEIGHTS))
    except UsageError as error:
        return _result(str(error))
    if found != listed:
        keys = set(found) ^ set(listed or ())
        part = f"key {sorted(keys)[0]!r}" if keys else "types or shapes"
        return _result(f"{WEIGHTS}: {part} not as in {CONFIG}")
    return _result("", f"{len(found)} tensors reloaded")


def describe_tensors(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Key -> [type, shape], as in config.json."""
    return {key: [str(value.dtype).removeprefix("torch."), list(value.shape)] for key, value in tensors.items()}


def _outputs(folder: Path, formats: Sequence[str], manifest: Mapping[str, Any]) -> Report:
    """Runs each format in a fresh interpreter and compares the outputs."""
    expected = {k: v for k, v in read_tensors(folder / EXAMPLES).items() if k.startswith("output.")}
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary) / "outputs.safetensors"
        command = [sys.executable, "-I", str(SCRIPT), str(folder.absolute()), str(result), *formats]
        try:
            done = subprocess.run(
                command,
                cwd=temporary,
                env={**os.environ, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"},  # a pt2 contains pickles
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=True,
            )
            errors = json.loads(done.stdout.splitlines()[-1])
            outputs = read_tensors(result)
        except (subprocess.SubprocessError, ValueError, IndexError, OSError) as error:
            if len(formats) > 1:  # one format ends the interpreter: run each alone to find it
                return {k: row for name in formats for k, row in _outputs(folder, [name], manifest).items()}
            lines = (error.stderr or "").strip().splitlines() if isinstance(error, CalledProcessError) else []
            return {formats[0]: _result(lines[-1] if lines else describe(error))}
    report: Report = {}
    for name in formats:
        if errors.get(name):
            report[name] = _result(f"{FILES[name][0]}: {errors[name]}")
        else:
            own = {key.partition("/")[2]: value for key, value in outputs.items() if key.startswith(f"{name}/")}
            report[name] = _compared(name, own, expected, manifest)
    return report


def _compared(
    name: str, outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    file = FILES[name][0]
    if describe_tensors(outputs) != describe_tensors(expected):
        return _result(f"{file}: the outputs have another number, type or shape")
    allowed, floor, why = _allowed(name, manifest)
    difference, scale = largest_difference([outputs[key] for key in expected], list(expected.values()), floor)
    if all(torch.equal(outputs[key], expected[key]) for key in expected):
        result = _result("", "outputs bitwise equal")
    else:
        detail = f"outputs differ by at most {difference:.1e} ({why})"
        result = _result("" if difference <= allowed * scale else f"{file}: {detail}", detail)
    return {**result, "max_abs_diff": difference}


def _allowed(name: str, manifest: Mapping[str, Any]) -> tuple[float, float, str]:
    """The allowed difference, relative to the largest output or to a floor; the floor; and the reason."""
    if manifest.get("machine") != machine():
        return OTHER_MACHINE, 1.0, f"written on another machine, at most {OTHER_MACHINE:g} allowed"
    if name in ("onnx", "huggingface"):
        return TOLERANCE, 1.0, f"at most {TOLERANCE:g} allowed"
    if name == "pt2" and (stated := manifest.get("pt2_tolerance")):
        part = stated["relative_to_largest_output"]
        layers = ", ".join(name or "the network" for name in stated["layers"])
        return part, 0.0, f"at most {part:g} of the largest output allowed, for fused attention in {layers:.200}"
    return 0.0, 1.0, "bitwise equal expected"
