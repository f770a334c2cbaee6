"""Checking an export folder: its files, and what they compute in an interpreter that does not know this framework."""

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

from nas.export import fresh_script
from nas.export.manifest import CONFIG, EXAMPLES, WEIGHTS, broken_files, machine, read_manifest, read_tensors
from nas.export.subject import largest_difference
from nas.genotype import Genotype
from nas.io.errors import UsageError, describe
from nas.io.json_file import read_json

ONNX_TOLERANCE = 1e-5
"""Largest difference of an output, as a part of the largest output where that is above 1."""
OTHER_MACHINE = 1e-4
"""The same where the export was written on another kind of machine or by another torch, whose last bits may differ."""
TIMEOUT_SECONDS = 1800

Report = dict[str, dict[str, Any]]


def verify(folder: Path) -> Report:
    """Checks everything in an export folder. This runs its network.py.

    Returns:
        Format (``files`` for the files themselves) -> ``{"ok": bool, "detail": str}``, with ``max_abs_diff`` where outputs were compared.

    Raises:
        UsageError: It is no export folder, or its manifest is damaged.
    """
    manifest = read_manifest(folder)
    broken = broken_files(folder, manifest["sha256"])
    listed = {EXAMPLES, *(file for name in manifest["formats"] for file in FILES.get(name, ()))}
    broken += [f"{name}: not in the manifest" for name in sorted(listed - set(manifest["sha256"]))]
    unknown = [name for name in manifest["formats"] if name not in FILES]
    broken += [f"unknown format {name!r:.80}" for name in unknown]
    if broken:
        return {"files": {"ok": False, "detail": "; ".join(broken)}}
    report: Report = {"files": {"ok": True, "detail": f"{len(manifest['sha256'])} files as they were written"}}
    if "genotype" in manifest["formats"]:
        report["genotype"] = _genotype(folder, manifest)
    if "safetensors" in manifest["formats"]:
        report["safetensors"] = _safetensors(folder)
    runnable = [name for name in manifest["formats"] if name in RUNNABLE]
    return report | (_outputs(folder, runnable, manifest) if runnable else {})


FILES: Mapping[str, tuple[str, ...]] = {
    "genotype": ("genotype.json",),
    "python": ("network.py", WEIGHTS),
    "safetensors": (WEIGHTS, CONFIG),
    "onnx": ("model.onnx",),
    "pt2": ("model.pt2",),
}
RUNNABLE = ("python", "pt2", "onnx")


def complaints(report: Report) -> list[str]:
    """What does not hold, a line each."""
    return [f"{name}: {row['detail']}" for name, row in report.items() if not row["ok"]]


def _genotype(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    try:
        genotype = Genotype.load(folder / "genotype.json")
    except UsageError as error:
        return {"ok": False, "detail": str(error)}
    equal = dict(genotype.choices) == manifest.get("choices")
    return {"ok": equal, "detail": "read back equal" if equal else "genotype.json: other choices than the manifest's"}


def _safetensors(folder: Path) -> dict[str, Any]:
    """Every tensor that config.json lists is there, of its type and shape, and no other."""
    try:
        listed = read_json(folder / CONFIG, f"{CONFIG}: missing").get("tensors")
        found = describe_tensors(read_tensors(folder / WEIGHTS))
    except UsageError as error:
        return {"ok": False, "detail": str(error)}
    if found != listed:
        keys = set(found) ^ set(listed or ())
        what = f"key {sorted(keys)[0]!r}" if keys else "types or shapes"
        return {"ok": False, "detail": f"{WEIGHTS}: {what} not as in {CONFIG}"}
    return {"ok": True, "detail": f"{len(found)} tensors reloaded"}


def describe_tensors(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """What config.json says of tensors: key -> [type, shape]."""
    return {key: [str(value.dtype).removeprefix("torch."), list(value.shape)] for key, value in tensors.items()}


def _outputs(folder: Path, formats: Sequence[str], manifest: Mapping[str, Any]) -> Report:
    """Runs each format in a fresh interpreter and compares."""
    expected = {k: v for k, v in read_tensors(folder / EXAMPLES).items() if k.startswith("output.")}
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary) / "outputs.safetensors"
        command = [sys.executable, "-I", fresh_script(), str(folder.absolute()), str(result), *formats]
        try:
            done = subprocess.run(
                command,
                cwd=temporary,
                env={**os.environ, "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"},  # a pt2 holds pickles
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=True,
            )
            said = json.loads(done.stdout.splitlines()[-1])
            outputs = read_tensors(result)
        except (subprocess.SubprocessError, ValueError, IndexError, OSError) as error:
            if len(formats) > 1:  # one brings the interpreter down: say which
                return {k: row for name in formats for k, row in _outputs(folder, [name], manifest).items()}
            lines = (error.stderr or "").strip().splitlines() if isinstance(error, CalledProcessError) else []
            return {formats[0]: {"ok": False, "detail": lines[-1] if lines else describe(error)}}
    report: Report = {}
    for name in formats:
        if said.get(name):
            report[name] = {"ok": False, "detail": f"{FILES[name][0]}: {said[name]}"}
        else:
            mine = {key.partition("/")[2]: value for key, value in outputs.items() if key.startswith(f"{name}/")}
            report[name] = _compared(name, mine, expected, manifest)
    return report


def _compared(
    name: str, outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    file = FILES[name][0]
    if describe_tensors(outputs) != describe_tensors(expected):
        return {"ok": False, "detail": f"{file}: outputs of other number, type or shape"}
    exact = all(torch.equal(outputs[key], expected[key]) for key in expected)
    allowed, floor, why = _allowed(name, manifest)
    difference, scale = largest_difference([outputs[key] for key in expected], list(expected.values()), floor)
    result = {"max_abs_diff": difference}
    if exact:
        return {"ok": True, "detail": "outputs bitwise equal", **result}
    close = difference <= allowed * scale
    detail = f"outputs differ by at most {difference:.1e} ({why})"
    return {"ok": close, "detail": detail if close else f"{file}: {detail}", **result}


def _allowed(name: str, manifest: Mapping[str, Any]) -> tuple[float, float, str]:
    """What a format may differ by, as a part of the largest output or of a floor; the floor; and why."""
    if manifest.get("machine") != machine():
        return OTHER_MACHINE, 1.0, f"written on another machine, at most {OTHER_MACHINE:g} allowed"
    if name == "onnx":
        return ONNX_TOLERANCE, 1.0, f"at most {ONNX_TOLERANCE:g} allowed"
    if name == "pt2" and (stated := manifest.get("pt2_tolerance")):
        part = stated["relative_to_largest_output"]
        layers = ", ".join(name or "the network" for name in stated["layers"])
        return part, 0.0, f"at most {part:g} of the largest output allowed, for fused attention in {layers:.200}"
    return 0.0, 1.0, "bitwise equal expected"
