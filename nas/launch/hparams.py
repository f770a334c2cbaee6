"""A launch on TensorBoard's HParams page: a row for every trial, what it was given and what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nas.launch.trials import FIGURES
from nas.runs import pages


def write_hparams(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes an event file for every trial that has a figure; what was there is replaced.

    Args:
        folder: Gets a folder for each trial.
        rows: As :func:`nas.launch.trials.rows` gives them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for row in rows:
        given = {"seed": row["seed"], **{key: value for key, value in row.items() if key not in FIGURES}}
        figures = {f"launch/{key}": float(row[key]) for key in ("arch", "test", "search_seconds") if key in row}
        if figures:
            with SummaryWriter(str(folder / row["name"])) as writer:
                pages.write_hparams(writer, given, figures, 0)
