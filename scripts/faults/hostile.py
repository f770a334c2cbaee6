"""Files that are made to hurt: each must be refused in one line, without a side effect, soon and in little memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from faults.child import Child, Ended, command
from faults.killing import Reference, reference_of
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from nas.genotype import Genotype
from nas.io.errors import UsageError
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource

MAX_SECONDS = 2.0
MAX_MB = 500.0

MARK = "touched"
"""The file that every side effect would make."""

Words = list[str | Path]


class _Touch:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (MARK, "w"))


def hostile_inputs(folder: Path) -> list[str]:
    """Tries all of them; returns what went wrong."""
    reference = reference_of(folder, 0, 0)
    here = reference.folder
    (here / "sneaky.py").write_text(f"open({MARK!r}, 'w')\nclass Space: pass\n")
    good = {
        "search": Ended(
            0, reference.total, _peak(here, ["search", "--config", reference.config, "--out", here / "g"]), ""
        ),
        "genotype": _run(
            here, ["profile", "--config", reference.config, "--genotype", reference.run / "genotype.json"]
        ),
        "npz": _run(here, _npz_words(here, "good.npz", _good_arrays)),
        "resume": _run(here, ["search", "--resume", reference.run]),
    }
    wrong = [f"good {name}: exit code {ended.code}: {ended.said}" for name, ended in good.items() if ended.code]
    for kind, cases in _cases(reference).items():
        for name, words in cases.items():
            wrong += [f"{kind}, {name}: {line}" for line in _complaints(here, words, good[kind])]
    return wrong


def _complaints(here: Path, words: Words, good: Ended) -> list[str]:
    ended = _run(here, words)
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


def _run(here: Path, words: Words) -> Ended:
    return Child(command(words), here).end(30.0)


def _peak(here: Path, words: Words) -> float:
    return _run(here, words).peak_mb


def _cases(reference: Reference) -> dict[str, dict[str, Words]]:
    here = reference.folder
    cases: dict[str, dict[str, Words]] = {"search": {}, "genotype": {}, "npz": {}, "resume": {}}
    for name, text in _configs(reference.config.read_text()).items():
        path = here / f"bad_{len(cases['search'])}.yaml"
        path.write_text(text)
        cases["search"][name] = ["search", "--config", path, "--out", here / "never"]
    for name, text in _genotypes().items():
        path = here / f"bad_{len(cases['genotype'])}.json"
        path.write_text(text)
        cases["genotype"][name] = ["profile", "--config", reference.config, "--genotype", path]
    for name, write in _archives().items():
        cases["npz"][name] = _npz_words(here, f"bad_{len(cases['npz'])}.npz", write)
    for name, content in _checkpoints().items():
        run = here / f"bad_{len(cases['resume'])}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_bytes((reference.run / "config.yaml").read_bytes())
        digest = hashlib.sha256(content).hexdigest()
        (run / "checkpoints" / "last.ckpt").write_bytes(content + f"sha256:{digest}\n".encode())
        cases["resume"][name] = ["search", "--resume", run]
    pipe = here / "pipe"
    os.mkfifo(pipe)
    for name, endless in (("a pipe", pipe), ("a device without end", Path("/dev/zero"))):
        cases["search"][name] = ["search", "--config", endless, "--out", here / "never"]
        cases["genotype"][name] = ["profile", "--config", reference.config, "--genotype", endless]
        cases["npz"][name] = _npz_words(here, endless, None)
        run = here / f"endless {name}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_bytes((reference.run / "config.yaml").read_bytes())
        (run / "checkpoints" / "last.ckpt").symlink_to(endless)
        cases["resume"][name] = ["search", "--resume", run]
    return cases


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


def _npz_words(here: Path, name: str | Path, write: Callable[[Path], None] | None) -> Words:
    if write is not None:
        write(here / name)
    config = here / f"{Path(name).name}.yaml"
    values = yaml.safe_load((here / "small.yaml").read_text())
    values["data"] = {"class_path": "nas.data.Npz", "init_args": {"path": str(name), "batch_size": 20}}
    config.write_text(yaml.safe_dump(values))
    return ["profile", "--config", config]


def _archives() -> dict[str, Callable[[Path], None]]:
    def objects(path: Path) -> None:
        array = np.array([_Touch()], dtype=object)
        np.savez(path, x_train=array, y_train=array, x_test=array, y_test=array)

    def bomb(path: Path) -> None:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("x_train.npy", "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array_header_1_0(
                member, {"descr": "<f4", "fortran_order": False, "shape": (2**19, 1, 512)}
            )
            for _ in range(1024):
                member.write(bytes(2**20))

    def lying(path: Path) -> None:
        _good_arrays(path)
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 64)})
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**members, "x_train.npy": buffer.getvalue()}.items():
                archive.writestr(name, content)

    def crowd(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(20_000):
                archive.writestr(f"a{i}.npy", b"")

    return {"object arrays": objects, "zip bomb": bomb, "a shape that is not there": lying, "many members": crowd}


def _checkpoints() -> dict[str, bytes]:
    def saved(content: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w", force_zip64=True) as member,
    ):
        for _ in range(1024):
            member.write(bytes(2**20))
    return {
        "a pickle with a side effect": saved({"x": _Touch()}),
        "a bare pickle": b"cos\nsystem\n(S'touch " + MARK.encode() + b"'\ntR.",
        "a zip bomb": bomb.getvalue(),
        "no dictionary": saved([1, 2]),
        "an empty dictionary": saved({}),
        "other types": saved({"num_batches_done": "many", "callbacks": 3, "state_dict": 5}),
    }


def fuzz(folder: Path, seconds: float) -> list[str]:
    """Reads made-up genotypes and configurations; returns what raised anything but our own error."""
    good = yaml.safe_load(reference_of(folder, 0, 0).config.read_text())
    path = folder / "fuzz.yaml"
    scalars = st.none() | st.booleans() | st.integers(-99, 99) | st.floats() | st.text(max_size=20)
    words = st.sampled_from(
        ["class_path", "init_args", "nas.tau.Linear", "torch.nn.ReLU", "nas.data.Npz", "max", "macs"]
    )
    trees = st.recursive(
        scalars | words, lambda c: st.lists(c, max_size=4) | st.dictionaries(words | st.text(max_size=9), c, max_size=4)
    )
    keys = st.sampled_from(
        [(section, key) for section, value in good.items() if isinstance(value, dict) for key in value]
    )

    def read_genotype(text: str) -> None:
        try:
            Genotype.from_json(text)
        except UsageError:
            pass

    def read_config(text: bytes) -> None:
        path.write_bytes(text)
        try:
            load_experiment(ConfigSource((path,)))
        except UsageError:
            pass

    def one(tree: Any, place: tuple[str, str], junk: bytes, number: int) -> None:
        section, key = place
        text = yaml.safe_dump({**good, section: {**good[section], key: tree}})
        read_config(text.encode())
        at = number % len(text)
        read_config(text.encode()[:at] + junk + text.encode()[at + len(junk) :])
        sound = {"format": "gumbel-nas/genotype", "version": 1, "choices": {"a": "b"}}
        for content in (tree, {**sound, "choices": tree}, {**sound, "space": tree}, {**sound, str(tree)[:9]: tree}):
            read_genotype(json.dumps(content))
        read_genotype(junk.decode(errors="replace"))

    test = settings(
        max_examples=50, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )(given(trees, keys, st.binary(max_size=6), st.integers(0, 10**6))(one))
    wrong: list[str] = []
    end, number = time.monotonic() + seconds, random.Random(0)
    while time.monotonic() < end and not wrong:
        try:
            seed(number.randrange(2**32))(test)()
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    return wrong
