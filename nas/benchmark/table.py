"""Tabular benchmarks: the scores of stand-alone trainings of a space's architectures, and the rank of an architecture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas.genotype import key_of
from nas.io.errors import UsageError
from nas.io.json_file import Document

DOCUMENT = Document("a table", "gumbel-nas/table")
Part = Literal["validation", "test"]
PARTS: tuple[Part, ...] = ("validation", "test")
LOADING = ("arch_fraction", "num_workers", "pin_memory", "prefetch_factor")
"""Arguments of the data module that do not affect a stand-alone training."""

Values = dict[Part, dict[int, float]]


@dataclass
class Table:
    """Scores of stand-alone trainings of architectures of one space.

    Attributes:
        training: Space, data and settings of the trainings. Searches are compared with the table only if these are equal.
        metric: Name of the metric.
        rows: Architecture -> part -> seed -> score. Validation scores come from a part of the training set.
        seconds: Mean time of a training.
        provenance: Versions, hardware, date and command; the source of a published table.
        higher_is_better: Whether the best score is the highest.
    """

    training: Mapping[str, Any]
    metric: str
    rows: dict[str, Values] = field(default_factory=dict)
    seconds: float = float("nan")
    provenance: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True

    @property
    def source(self) -> str:
        """The origin of the scores, in a few words."""
        origin = self.provenance.get("source") or f"trainings of {self.class_path or 'an unnamed space'}"
        return f"{origin}, {len(self.rows):,} architectures"

    @property
    def class_path(self) -> str | None:
        """Class path of the space; None if the settings of the trainings do not name it."""
        space = self.training.get("space")
        return space.get("class_path") if isinstance(space, Mapping) else None

    def add(self, choices: Mapping[str, Any], part: Part, seed: int, score: float) -> None:
        """Adds one training's score."""
        self.rows.setdefault(key_of(choices), {"validation": {}, "test": {}})[part][seed] = score

    def value(self, choices: Mapping[str, Any], part: Part) -> float | None:
        """The mean score over seeds; None without scores."""
        scores = self.rows.get(key_of(choices), {}).get(part)
        return statistics.fmean(scores.values()) if scores else None

    def column(self, part: Part) -> dict[str, float]:
        """Architecture -> mean score over seeds, for architectures with scores."""
        return {key: statistics.fmean(values[part].values()) for key, values in self.rows.items() if values[part]}

    def standing(self, choices: Mapping[str, Any], part: Part) -> dict[str, float] | None:
        """Rank of an architecture (1 is best), number of architectures, value, and regret (its distance to the best value).

        None if the table does not have the architecture.
        """
        column, key = self.column(part), key_of(choices)
        if key not in column:
            return None
        sign = 1 if self.higher_is_better else -1
        value, values = sign * column[key], [sign * other for other in column.values()]
        rank = 1 + sum(other > value for other in values)
        return {"rank": rank, "num": len(values), "value": column[key], "regret": max(values) - value}

    def random_sample(self) -> tuple[list[float], list[float]]:
        """The goodness in validation (higher is better) and the test score of the architectures that have both."""
        validation, test = self.column("validation"), self.column("test")
        keys = sorted(validation.keys() & test.keys())
        sign = 1 if self.higher_is_better else -1
        return [sign * validation[key] for key in keys], [test[key] for key in keys]

    def save(self, path: Path) -> None:
        """Writes the table, completely or not at all."""
        rows = [{"choices": json.loads(key), **values} for key, values in sorted(self.rows.items())]
        about = {
            "training": self.training,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "seconds": self.seconds,
            "provenance": self.provenance,
        }
        DOCUMENT.save(path, {**about, "architectures": rows})

    @classmethod
    def load(cls, path: Path) -> Table:
        """Reads a table; raises UsageError if the file is missing or damaged."""
        content = DOCUMENT.load(path, f"{path}: no such table")
        try:
            seconds = content["seconds"]
            table = cls(
                dict(content["training"]),
                content["metric"],
                seconds=float("nan") if seconds is None else float(seconds),
                provenance=dict(content["provenance"]),
                higher_is_better=content.get("higher_is_better") is not False,  # missing in older tables
            )
            for row in content["architectures"]:
                for part in PARTS:
                    for seed, score in row[part].items():
                        if type(score) not in (int, float):  # float() would read "nan"
                            raise TypeError(score)
                        table.add(row["choices"], part, int(seed), float(score))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{path}: damaged: {error!r:.80}") from None
        return table


def training_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that affect a score, except architecture and seed.

    `values` are ``experiment.applied`` of a configuration that is loaded for the stage ``"retrain"``.
    """
    trainer = values["trainer"]
    kept = ["optimizer", "scheduler", "gradient_clip_norm", "task"]
    if values["retrain"]["num_micro_batches"] > 1:  # batch norms see each part separately
        kept.append("num_micro_batches")
    data = values["data"]
    loaded = {name: value for name, value in data.get("init_args", {}).items() if name not in LOADING}
    return {
        "space": values["model"]["space"],
        "data": {**data, "init_args": loaded},
        "task": values["model"]["task"],
        "retrain": {name: values["retrain"][name] for name in kept},
        "trainer": {name: trainer[name] for name in ("max_epochs", "precision", "limit_train_batches")},
    }
