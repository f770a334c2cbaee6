"""What decided a search in which a learned distribution chooses: scored architectures, the runner-up and the history."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nas.costs.functions import num_macs
from nas.derive.stability import stability
from nas.genotype import Genotype
from nas.io.errors import UsageError, describe
from nas.io.json_file import read_json, write_json
from nas.runs.config import Experiment
from nas.runs.targets import cost_tables
from nas.training.search_module import SearchModule

DISTRIBUTION, RUNNER_UP = "distribution.json", "runner_up.json"


def write_decided(
    folder: Path,
    module: SearchModule,
    moments: Sequence[Mapping[str, Any]],
    retraining: Experiment,
    genotype: Genotype,
    runner_up: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Writes distribution.json and runner_up.json, and returns how stable the choice is; None if no distribution was learned.

    distribution.json has ``moments`` of :class:`nas.callbacks.distribution.DistributionHistory`; ``scored``, the architectures that were
    scored, with their loss on the arch split, MACs and the batch of their evaluation; ``chosen`` and ``runner_up``.
    """
    if not moments:
        return None
    scored = list(module.scores.found.values())
    macs = _macs(retraining) if scored else None
    content = {
        "moments": moments,
        "scored": [{**entry._asdict(), "macs": None if macs is None else macs.of(entry.choices)} for entry in scored],
        "chosen": dict(genotype.choices),
        "runner_up": runner_up,
    }
    write_json(folder / DISTRIBUTION, content)
    if runner_up is not None:
        Genotype(runner_up, space=genotype.space, probabilities=genotype.probabilities).save(folder / RUNNER_UP)
    known = [(module.scores.path_of(entry.choices), math.log(entry.loss)) for entry in scored]
    return stability(module.supernet.joint, known, module.arch_optimizer, moments, module.seed)


def read_decided(folder: Path) -> dict[str, Any] | None:
    """The content of distribution.json; None if the search did not write it. Raises UsageError if the file is damaged."""
    path = folder / DISTRIBUTION
    if not path.is_file():
        return None
    content = read_json(path, f"{path}: missing")
    try:
        moments, scored = content["moments"], content["scored"]
        listed = [entry for moment in moments for entry in moment["most_probable"]]
        numbers = [
            *(moment["batch"] for moment in moments),
            *(entry["probability"] for entry in listed),
            *(entry["loss"] for entry in scored),
            *(entry["macs"] for entry in scored if entry["macs"] is not None),
        ]
        named = [content["chosen"], *filter(None, [content["runner_up"]]), *(e["choices"] for e in (*listed, *scored))]
        intact = bool(listed) and all(isinstance(number, (int, float)) for number in numbers)
        intact = intact and all(isinstance(choices, dict) for choices in named)
    except (KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise UsageError(f"{path}: damaged")
    return content


def _macs(retraining: Experiment) -> Any:
    try:
        return cost_tables(retraining, torch.device("cpu"), {"macs": num_macs}, measure=False)["macs"]
    except (UsageError, ValueError) as error:
        warnings.warn(f"distribution.json has no MACs: {describe(error)}", stacklevel=2)
        return None
