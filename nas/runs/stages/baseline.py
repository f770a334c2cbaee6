"""Random search, the baseline that every search must beat at equal cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.benchmark import PARTS, Table, training_of
from nas.genotype import Genotype, key_of
from nas.io.errors import UsageError, as_usage_error
from nas.io.files import atomic_folder, write_atomic
from nas.io.folder_lock import locked
from nas.io.json_file import write_json
from nas.runs.config import load_retraining
from nas.runs.options import ConfigSource
from nas.runs.standalone import sample_architectures, standalone_score

TABLE = "table.json"
SUMMARY = "summary.json"


def baseline(source: ConfigSource, num: int, out: Path | None) -> tuple[Path, dict[str, Any]]:
    """Trains random architectures as ``nas retrain`` does, once for a validation score and once for a test score.

    Each finished training is saved, so the same command resumes. Returns the folder (default: ``runs/<config name>_baseline``) and the
    content of its summary.json.

    Raises:
        UsageError: The configuration does not work, or the folder holds the baseline of another configuration.
    """
    if num < 1:
        raise UsageError(f"--num must be at least 1, got {num}")
    experiment = load_retraining(source)
    with as_usage_error():
        experiment.data.prepare_data()
    drawn = sample_architectures(experiment, num)
    folder = out if out is not None else Path("runs") / f"{source.name}_baseline"
    training = {**training_of(experiment.applied), "seed": experiment.seed}
    if not (folder / TABLE).exists():
        with atomic_folder(folder) as new:
            write_atomic(new / "config.yaml", experiment.yaml)
            name, metric = next(iter(experiment.model["task"].metrics().items()))
            Table(training, name, higher_is_better=metric.higher_is_better is not False).save(new / TABLE)
    with locked(folder):
        table = Table.load(folder / TABLE)
        if table.training != training:
            raise UsageError(f"{folder} holds the baseline of another configuration; name another folder with --out")
        seconds = [table.seconds] * sum(len(scores) for values in table.rows.values() for scores in values.values())
        for choices in drawn:
            for part in PARTS:
                if table.value(choices, part) is None:
                    score = standalone_score(experiment, Genotype(choices), part, experiment.seed)
                    table.add(choices, part, experiment.seed, score.value)
                    seconds.append(score.seconds)
                    table.seconds = statistics.fmean(seconds)
                    table.save(folder / TABLE)
        summary = summarised(table, drawn) | {"seed": experiment.seed}
        write_json(folder / SUMMARY, summary)
    return folder, summary


def summarised(table: Table, drawn: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of random search. The validation score chooses the best architecture; its test score is the result."""
    values = {part: [table.column(part)[key_of(choices)] for choices in drawn] for part in PARTS}
    choose = max if table.higher_is_better else min
    best = choose(range(len(drawn)), key=values["validation"].__getitem__)
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
