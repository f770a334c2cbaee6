"""Files that attack their reader: each must be refused in one line, without a side effect, soon and in little memory."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from child import Child, Ended, command
from killing import Reference, reference_of

MAX_SECONDS = 2.0
MAX_MB = 500.0

MARK = "touched"
"""Every side effect would make this file."""

Words = list[str | Path]


class _Touch:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (MARK, "w"))


def hostile_inputs(folder: Path) -> list[str]:
    """Tries all of them; returns what went wrong."""
    reference = reference_of(folder, 0, 0)
    here = reference.folder
    (here / "sneaky.py").write_text(f"open({MARK!r}, 'w')\nclass Space: pass\n")
    _good_arrays(here / "good.npz")
    good: dict[str, Words] = {
        "search": ["search", "--config", reference.config, "--out", here / "good"],
        "genotype": _profile(reference, reference.run / "genotype.json"),
        "npz": _read_npz(reference, here / "good.npz"),
        "resume": ["search", "--resume", reference.run],
    }
    ends = {kind: _run(here, words) for kind, words in good.items()}
    wrong = [f"good {kind}: exit code {ended.code}: {ended.said}" for kind, ended in ends.items() if ended.code]
    for kind, name, words in _cases(reference):
        wrong += [f"{kind}, {name}: {line}" for line in _complaints(here, _run(here, words), ends[kind])]
    return wrong


def _run(here: Path, words: Words) -> Ended:
    return Child(command(words), here).end(30.0)


def _complaints(here: Path, ended: Ended, good: Ended) -> list[str]:
    lines = [line for line in ended.said.splitlines() if not line.startswith("nas: warning: ")]
    found = []
    if ended.code not in (1, 2):
        found.append(f"exit code {ended.code}")
    if len(lines) != 1 or not lines[0].startswith("nas: "):
        found.append(f"said {lines[:3]}")
    if (here / MARK).exists():
        (here / MARK).unlink()
        found.append("it had its side effect")
    if ended.seconds > good.seconds + MAX_SECONDS:
        found.append(f"took {ended.seconds:.1f} s, a good one {good.seconds:.1f} s")
    if ended.peak_mb > good.peak_mb + MAX_MB:
        found.append(f"took {ended.peak_mb:.0f} MB, a good one {good.peak_mb:.0f} MB")
    return found


def _cases(reference: Reference) -> Iterator[tuple[str, str, Words]]:
    """Kind, name and command of every case; its files are written just before."""
    here = reference.folder
    os.mkfifo(here / "pipe")
    endless = {"a pipe": here / "pipe", "a device without end": Path("/dev/zero")}
    texts = _configs(reference.config.read_text())
    for name, path in {**_written(here, "yaml", texts), **endless}.items():
        yield "search", name, ["search", "--config", path, "--out", here / "never"]
    for name, path in {**_written(here, "json", _genotypes()), **endless}.items():
        yield "genotype", name, _profile(reference, path)
    for name, path in {**_written(here, "npz", _archives()), **endless}.items():
        yield "npz", name, _read_npz(reference, path)
    checkpoints: dict[str, bytes | Path] = {**_checkpoints(), **endless}
    for name, content in checkpoints.items():
        checkpoint = here / f"run with {name}" / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        shutil.copy(reference.run / "config.yaml", checkpoint.parents[1])
        if isinstance(content, Path):
            checkpoint.symlink_to(content)
        else:
            checkpoint.write_bytes(content + f"sha256:{hashlib.sha256(content).hexdigest()}\n".encode())
        yield "resume", name, ["search", "--resume", checkpoint.parents[1]]


def _profile(reference: Reference, genotype: Path) -> Words:
    return ["profile", "--config", reference.config, "--genotype", genotype]


def _read_npz(reference: Reference, path: Path) -> Words:
    values = yaml.safe_load(reference.config.read_text())
    values["data"] = {"class_path": "nas.data.Npz", "init_args": {"path": str(path), "batch_size": 20}}
    config = reference.folder / f"{path.name}.yaml"
    config.write_text(yaml.safe_dump(values))
    return ["profile", "--config", config]


def _written(here: Path, suffix: str, cases: Mapping[str, str | Callable[[Path], None]]) -> dict[str, Path]:
    """Files of the cases, from their text or by the function that writes them."""
    paths = {name: here / f"bad_{number}.{suffix}" for number, name in enumerate(cases)}
    for name, content in cases.items():
        if isinstance(content, str):
            paths[name].write_text(content)
        else:
            content(paths[name])
    return paths


def _configs(good: str) -> dict[str, str]:
    values = yaml.safe_load(good)

    def changed(section: str, key: str, value: Any) -> str:
        return yaml.safe_dump({**values, section: {**values[section], key: value}})

    space = {"class_path": "search_spaces.dilation.DilationNet1d", "init_args": {"dilations": [1, 2]}}
    bomb = "".join(f"  k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 10))
    merges = "".join(f"  m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 10))
    return {
        "class_path os.system": changed(
            "model", "space", {"class_path": "os.system", "init_args": {"command": f"touch {MARK}"}}
        ),
        "class_path subprocess.Popen": changed("data", "class_path", "subprocess.Popen"),
        "os.system by way of another module": changed("model", "weight_optimizer", "nas.io.files.os.system"),
        "a cost by way of another module": changed("model", "cost", {"nas.io.files.contextmanager": {"max": 1}}),
        "a local module with a side effect": changed("model", "space", {"class_path": "sneaky.Space"}),
        "a local module as a cost": changed("model", "cost", {"sneaky.cost": {"max": 1}}),
        "python/object": good + f"retrain: !!python/object/apply:os.system ['touch {MARK}']\n",
        "alias bomb": "model:\n  k0: &k0 [x, x]\n" + bomb,
        "merge bomb": "model:\n  m0: &m0 {a: 1}\n" + merges,
        "a list that contains itself": "model: &a [*a]\n",
        "deep nesting": "model: " + "[" * 100_000,
        "deep mapping": "model: " + "{a: " * 50_000,
        "a million values": "model: [" + "1," * 500_000 + "]",
        "a huge file": "# " + "x" * 2_000_000,
        "duplicate keys": good + "model: {}\n",
        "a long key": changed("model", "k" * 300, 1),
        "a NUL in a path": changed("data", "class_path", "nas.data.Npz\0"),
        "no text": "\x00\x01",
        "a number without end": changed("model", "space", {**space, "init_args": {"num_layers": int("9" * 4000)}}),
    }


def _genotypes() -> dict[str, str]:
    def genotype(choices: str) -> str:
        return f'{{"format": "gumbel-nas/genotype", "version": 1, "choices": {choices}}}'

    million = "{" + ",".join(f'"c{i}":"a"' for i in range(1_000_000)) + "}"
    return {
        "deep JSON": genotype('{"a": ' * 100_000),
        "deep lists": genotype("[" * 1_000_000),
        "a million choices": genotype(million),
        "a million labels": genotype('{"layer1.conv": [' + ",".join(f'"a{i}"' for i in range(1_000_000)) + "]}"),
        "duplicate keys": genotype('{"layer1.conv": "dilation_1", "layer1.conv": "dilation_8"}'),
        "a name with ..": genotype('{"../../etc/passwd": "a"}'),
        "the name ..": genotype('{"..": "a"}'),
        "a name with NUL": genotype('{"a\\u0000": "a"}'),
        "a name of 300 characters": genotype(f'{{"{"n" * 300}": "a"}}'),
        "a label with ..": genotype('{"layer1.conv": "../dilation_1"}'),
        "a label of 300 characters": genotype(f'{{"layer1.conv": "{"n" * 300}"}}'),
        "half a character": genotype('{"layer1.conv": "\\ud800"}'),
        "a number without end": genotype("9" * 100_000),
        "a class path to os.system": genotype('{}, "space": {"class_path": "os.system"}'),
    }


def _good_arrays(path: Path) -> None:
    draw = np.random.default_rng(0)
    inputs, targets = draw.normal(size=(200, 1, 64)).astype(np.float32), np.arange(200) % 10
    np.savez(path, x_train=inputs, y_train=targets, x_test=inputs, y_test=targets)


def _archives() -> dict[str, Callable[[Path], None]]:
    def objects(path: Path) -> None:
        array = np.array([_Touch()], dtype=object)
        np.savez(path, x_train=array, y_train=array, x_test=array, y_test=array)

    def lying(path: Path) -> None:
        _good_arrays(path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**members, "x_train.npy": _header(2**40, 64)}.items():
                archive.writestr(name, content)

    def crowd(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(20_000):
                archive.writestr(f"a{i}.npy", b"")

    return {
        "object arrays": objects,
        "zip bomb": lambda path: _zip_bomb(path, "x_train.npy", _header(2**19, 1, 512)),
        "a shape that is not there": lying,
        "many members": crowd,
    }


def _header(*shape: int) -> bytes:
    """The first bytes of an array file of this shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _zip_bomb(target: Path | io.BytesIO, name: str, start: bytes = b"") -> None:
    """An archive of 1 MB with one member of 1 GB."""
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        member.write(start)
        for _ in range(1024):
            member.write(bytes(2**20))


def _checkpoints() -> dict[str, bytes]:
    def saved(content: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    bomb = io.BytesIO()
    _zip_bomb(bomb, "archive/data/0")
    return {
        "a pickle with a side effect": saved({"x": _Touch()}),
        "a bare pickle": b"cos\nsystem\n(S'touch " + MARK.encode() + b"'\ntR.",
        "a zip bomb": bomb.getvalue(),
        "no dictionary": saved([1, 2]),
        "an empty dictionary": saved({}),
        "other types": saved({"num_batches_done": "many", "callbacks": 3, "state_dict": 5}),
    }
