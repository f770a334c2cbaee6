"""Random search: what chance finds at a known cost, which every search must beat."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.genotype import Genotype
from nas.io.errors import UsageError, as_usage_error
from nas.io.files import atomic_folder, write_atomic
from nas.io.folder_lock import locked
from nas.io.json_file import write_json
from nas.runs.config import load_retraining
from nas.runs.options import ConfigSource
from nas.runs.standalone import architectures, final_score, validation_score
from nas.runs.table import PARTS, Part, Table, training_of

TABLE = "table.json"
SUMMARY = "summary.json"


def baseline(source: ConfigSource, num: int, out: Path | None) -> tuple[Path, dict[str, Any]]:
    """Trains random architectures as ``nas retrain`` does: on a part of the training set, judged on the rest, and on all of it, tested.

    Each finished training is kept, so the same command goes on where it stopped.

    Args:
        source: The configuration.
        num: Number of architectures, at least 1.
        out: The folder; None: ``runs/<config name>_baseline``.

    Returns:
        The folder, and what its summary.json says.

    Raises:
        UsageError: The configuration does not work, or the folder holds a baseline of another one.
    """
    if num < 1:
        raise UsageError(f"--num must be at least 1, got {num}")
    experiment = load_retraining(source)
    with as_usage_error():
        experiment.data.prepare_data()
    drawn = architectures(experiment, num)
    folder = out if out is not None else Path("runs") / f"{source.name}_baseline"
    training = {**training_of(experiment), "seed": experiment.seed}
    if not (folder / TABLE).exists():
        with atomic_folder(folder) as new:
            write_atomic(new / "config.yaml", experiment.yaml())
            Table(training, next(iter(experiment.model["task"].metrics()))).save(new / TABLE)
    with locked(folder):
        table, seconds = _open(folder, training)
        for choices in drawn:
            for part in PARTS:
                if table.value(choices, part) is None:
                    score = (validation_score if part == "validation" else final_score)(
                        experiment, Genotype(choices), experiment.seed
                    )
                    table.add(choices, part, experiment.seed, score.value)
                    seconds = [*seconds, score.seconds]
                    table.seconds = statistics.fmean(seconds)
                    table.save(folder / TABLE)
        summary = summarised(table, drawn) | {"seed": experiment.seed}
        write_json(folder / SUMMARY, summary)
    return folder, summary


def summarised(table: Table, drawn: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What random search over these architectures found.

    The best one is chosen by its validation score, as a search must choose; its test score is then what random search is worth.
    """
    values = {part: [_known(table, choices, part) for choices in drawn] for part in PARTS}
    best = max(range(len(drawn)), key=values["validation"].__getitem__)
    return {
        "stage": "baseline",
        "num": len(drawn),
        "metric": table.metric,
        **{
            part: {"mean": statistics.fmean(scores), "std": statistics.stdev(scores) if len(scores) > 1 else math.nan}
            for part, scores in values.items()
        },
        "best": {"genotype": drawn[best], **{part: scores[best] for part, scores in values.items()}},
        "seconds_per_training": table.seconds,
        "search_seconds": table.seconds * len(drawn),
    }


def _known(table: Table, choices: dict[str, Any], part: Part) -> float:
    value = table.value(choices, part)
    assert value is not None
    return value


def _open(folder: Path, training: dict[str, Any]) -> tuple[Table, list[float]]:
    """What was trained earlier, and the mean time of a training, as often as there were trainings."""
    table = Table.load(folder / TABLE)
    if table.training != training:
        raise UsageError(f"{folder}: holds the baseline of another configuration; name another folder with --out")
    return table, [table.seconds] * sum(len(scores) for values in table.rows.values() for scores in values.values())
