"""The meaning of the options of a launch. This module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nas.io.errors import UsageError
from nas.runs.options import check_key

if TYPE_CHECKING:
    from nas.launch.budget import Budget
    from nas.launch.trials import Engine

PACKAGES = {"ray": "ray", "slurm": "submitit"}
ENGINES = ("local", *PACKAGES)

_CLOSING = {"[": "]", "{": "}", "(": ")", '"': '"', "'": "'"}


def make_engine(
    name: str, *, job: Sequence[str], num_parallel: int | None, max_failures: int, address: str | None, asha: bool
) -> Engine:
    """The engine that runs the searches; a UsageError if an option does not fit the engine, or its package is not installed."""
    resources = _parse_job(job)
    if name != "ray" and (address or asha):
        raise UsageError("--address and --asha need --engine ray")
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        raise UsageError(f"--engine {name} needs {PACKAGES[name]}: pip install 'gumbel-nas[{name}]'")
    if name == "local":
        if resources:
            raise UsageError("--job needs --engine slurm or ray")
        from nas.launch.local import Local

        return Local(num_parallel or 1, max_failures)
    if name == "slurm":
        if num_parallel is not None:
            raise UsageError("--num-parallel does not go with --engine slurm: SLURM decides how many jobs run")
        from nas.launch.slurm import Slurm

        return Slurm(max_failures, **resources)
    for key, value in resources.items():
        if key not in ("num_cpus", "num_gpus") or not isinstance(value, int):
            raise UsageError(f"--job: --engine ray has num_cpus=N and num_gpus=N, not {key}={value}")
    from nas.launch.ray_tune import RayTune

    return RayTune(num_parallel, max_failures, address=address, asha=asha, **resources)


def _parse_job(words: Sequence[str]) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key.isidentifier() and equals):
            raise UsageError(f"--job must be like timeout_min=240, got {word!r:.80}")
        resources[key] = int(value) if value.isdecimal() else value
    return resources


def parse_seeds(text: str) -> list[int]:
    """The seeds in ``0-9`` or ``0,3,5``; a UsageError for any other form."""
    try:
        first, dash, last = text.partition("-")
        found = list(range(int(first), int(last) + 1)) if dash else [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found:
        raise UsageError(f"--seeds must be like 0-9 or 0,3,5, got {text!r:.80}")
    return found


def parse_budget(text: str) -> Budget:
    """The budget in ``epochs=N`` or ``trainings=X``; a UsageError for any other form."""
    unit, _, word = text.partition("=")
    try:
        amount = float(word)
    except ValueError:
        amount = 0.0
    if unit == "epochs" and amount.is_integer() and amount >= 1:
        return "epochs", amount
    if unit == "trainings" and 0 < amount < float("inf"):
        return "trainings", amount
    raise UsageError(f"--budget must be like epochs=40 or trainings=4.5, got {text!r:.80}")


def parse_settings(words: Sequence[str]) -> dict[str, list[str]]:
    """Key -> values, from words ``KEY=V,W``; a UsageError for any other form, and for a repeated key."""
    settings: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        values = _split(text)
        if not (key and equals and all(values)) or key == "seed_everything":
            raise UsageError(f"--set must be like model.tau=nas.tau.Linear,nas.tau.Cosine, got {word!r:.80}")
        check_key(key, "--set")
        if key in settings:
            raise UsageError(f"--set: {key} is given twice")
        settings[key] = values
    return settings


def _split(text: str) -> list[str]:
    """Splits a text at the commas that are outside of brackets, braces and quotes."""
    parts, closing = [""], ""
    for sign in text:
        if sign == "," and not closing:
            parts.append("")
            continue
        parts[-1] += sign
        if closing and sign == closing[-1]:
            closing = closing[:-1]
        elif sign in _CLOSING and closing[-1:] not in ("'", '"'):
            closing += _CLOSING[sign]
    return [part.strip() for part in parts]
