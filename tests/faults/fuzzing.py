"""Made-up configurations and genotypes: readers raise nothing but their own error."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from killing import reference_of

from nas.genotype import Genotype
from nas.io.errors import UsageError
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource


def fuzz(folder: Path, seconds: float, draw: random.Random) -> list[str]:
    """Reads made-up genotypes and configurations; returns errors that are not `UsageError`."""
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
        with suppress(UsageError):
            Genotype.from_json(text)

    def read_config(text: bytes) -> None:
        path.write_bytes(text)
        with suppress(UsageError):
            load_experiment(ConfigSource((path,)))

    def one(tree: Any, place: tuple[str, str], junk: bytes, number: int) -> None:
        section, key = place
        text = yaml.safe_dump({**good, section: {**good[section], key: tree}}).encode()
        read_config(text)
        at = number % len(text)
        read_config(text[:at] + junk + text[at + len(junk) :])
        sound = {"format": "gumbel-nas/genotype", "version": 1, "choices": {"a": "b"}}
        for content in (tree, {**sound, "choices": tree}, {**sound, "space": tree}, {**sound, str(tree)[:9]: tree}):
            read_genotype(json.dumps(content))
        read_genotype(junk.decode(errors="replace"))

    test = settings(
        max_examples=50, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )(given(trees, keys, st.binary(max_size=6), st.integers(0, 10**6))(one))
    wrong: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and not wrong:
        try:
            seed(draw.randrange(2**32))(test)()
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    return wrong
