"""Checkpoints, exports and genotypes with flipped bits or missing ends."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from child import Child, command
from killing import Reference, reference_of

import nas
from nas.export.manifest import CONFIG, MANIFEST, WEIGHTS
from nas.export.verify import verify
from nas.io import checkpoint_io
from nas.io.files import sha256

Check = Callable[[Path], str | None]
"""Reads a damaged file as users do; returns a complaint, or None where the file was refused or its predecessor was used."""


def damages(folder: Path, num_flips: int, num_cuts: int, draw: random.Random) -> list[str]:
    """Damages files at random places; returns the damages that no reader noticed."""
    files = _files(reference_of(folder, 0, 0))
    wrong = []
    for trial in range(num_flips + num_cuts):
        path, check = draw.choice(files)
        whole = path.read_bytes()
        if trial < num_flips:
            place, bit = draw.randrange(len(whole)), draw.randrange(8)
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            what = f"bit {bit} of byte {place}"
        else:
            place = draw.randrange(len(whole))
            damaged = bytearray(whole[:place])
            what = f"cut to {place} bytes"
        path.write_bytes(damaged)
        try:
            said = check(path)
        finally:
            path.write_bytes(whole)
        if said:
            wrong.append(f"{path.name}, {what}: {said}")
    return wrong


def _files(reference: Reference) -> list[tuple[Path, Check]]:
    """Files of a run and its export, and how each is read."""
    run, export = reference.run, reference.folder / "export"
    formats = "genotype,python,safetensors,pt2,onnx"
    words: list[str | Path] = ["export", "--run", run, "--out", export, "--formats", formats]
    ended = Child(command(words), reference.folder).end()
    if ended.code != 0:
        raise RuntimeError(f"the export failed: {ended.said}")
    files: list[tuple[Path, Check]] = [
        (run / "checkpoints" / "last.ckpt", _recovered(run)),
        (run / "genotype.json", _as_listed),
    ]
    files += [(path, _verified) for path in sorted(export.iterdir())]
    files += [(export / name, _loaded) for name in (WEIGHTS, CONFIG, MANIFEST)]
    files.append((export / WEIGHTS, _loaded_by_network(export)))
    return files


def _recovered(run: Path) -> Check:
    known: Mapping[str, Any] = checkpoint_io.load(run / "checkpoints" / "previous.ckpt", fall_back=False)

    def check(path: Path) -> str | None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            state = checkpoint_io.load(path)
        return None if said and state["num_batches_done"] == known["num_batches_done"] else "read silently"

    return check


def _as_listed(path: Path) -> str | None:
    """A genotype may be edited by hand; the run's manifest has the checksum of the original."""
    listed = json.loads((path.parent / "manifest.json").read_text())["sha256"]
    return "listed as whole" if listed[path.name] == sha256(path) else None


def _verified(path: Path) -> str | None:
    try:
        report = verify(path.parent)
    except ValueError:
        return None
    return "verified" if all(row["ok"] for row in report.values()) else None


def _loaded(path: Path) -> str | None:
    try:
        nas.load(path.parent)
    except ValueError:
        return None
    return "loaded"


def _loaded_by_network(export: Path) -> Check:
    spec = importlib.util.spec_from_file_location("exported_network", export / "network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    def check(path: Path) -> str | None:
        try:
            module.load()
        except ValueError:
            return None
        return "loaded by network.py"

    return check
