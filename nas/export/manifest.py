"""The manifest of an export folder: its files, their digests, and the machine that wrote them."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nas.export.attention import TOLERANCE
from nas.io.errors import UsageError, describe
from nas.io.files import sha256
from nas.io.json_file import Document
from nas.io.reading import MAX_TENSOR_BYTES

DOCUMENT = Document("the manifest of an export", "gumbel-nas/export")
MANIFEST = "manifest.json"
EXAMPLES = "examples.safetensors"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
HUGGINGFACE = "huggingface"  # a folder inside the export, with a config and weights of its own

_NAME = re.compile(rf"({HUGGINGFACE}/)?[A-Za-z0-9][A-Za-z0-9_.-]{{0,99}}")


def make_manifest(folder: Path, formats: Sequence[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of manifest.json: the formats, `about`, the machine, and the SHA-256 of each file."""
    return {
        "formats": list(formats),
        **about,
        "machine": machine(),
        "sha256": {
            path.relative_to(folder).as_posix(): sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        },
    }


def machine() -> dict[str, str]:
    """The properties that decide the last bits of a result."""
    return {
        "torch": torch.__version__,
        "architecture": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of an export folder; a UsageError if it is missing or damaged, or names a file outside of the folder."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    content = DOCUMENT.load(path, f"{folder}: not an export ({MANIFEST} is missing)")
    files, formats = content.get("sha256"), content.get("formats")
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise UsageError(f"{path}: sha256 must map file names to hexadecimal digests")
    if not isinstance(formats, list) or not all(isinstance(item, str) for item in formats):
        raise UsageError(f"{path}: formats must be a list of names")
    for name in files:
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise UsageError(f"{path}: {name!r:.120} is not the name of a file in this folder")
    if "pt2_tolerance" in content:
        _check_tolerance(content["pt2_tolerance"], path)
    return content


def _check_tolerance(stated: Any, path: Path) -> None:
    stated = stated if isinstance(stated, dict) else {}
    allowed, layers = stated.get("relative_to_largest_output"), stated.get("layers")
    if not isinstance(allowed, float) or not 0 <= allowed <= TOLERANCE:
        raise UsageError(f"{path}: pt2_tolerance must allow between 0 and {TOLERANCE:g}, not {allowed!r:.80}")
    if not isinstance(layers, list) or not layers or not all(isinstance(name, str) for name in layers):
        raise UsageError(f"{path}: pt2_tolerance.layers must be a list of module names")


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network on the CPU, each tensor with its own memory, as safetensors files need it."""
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in network.state_dict().items()}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises UsageError if the file cannot be read or is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: {describe(error)}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of :func:`read_safetensors`."""
    return read_safetensors(path)[0]


def broken_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """A line for each file that is missing, a link, too large, or changed."""
    lines = []
    for name, digest in files.items():
        path = folder / name
        if path.is_symlink() or (path.parent != folder and path.parent.is_symlink()):
            lines.append(f"{name}: a symbolic link, not a file of the export")
        elif not path.is_file():
            lines.append(f"{name}: missing")
        elif path.stat().st_size > MAX_TENSOR_BYTES:
            lines.append(f"{name}: larger than {MAX_TENSOR_BYTES} bytes")
        elif sha256(path) != digest:
            lines.append(f"{name}: not as it was written (SHA-256 differs)")
    return lines
