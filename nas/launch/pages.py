"""TensorBoard pages of a launch: hyperparameters with the result of each trial."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nas.launch.trials import FIGURES
from nas.runs.pages import write_hparams

PAGES = "dashboard"
"""Folder of the event files of a launch."""
_SHOWN = ("test", "arch", "search_seconds")


def write_pages(folder: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Writes TensorBoard's HParams page: an event file for each trial that has a figure. Old files are removed."""
    shutil.rmtree(folder, ignore_errors=True)
    for row in found:
        figures = {f"launch/{key}": float(row[key]) for key in _SHOWN if key in row}
        if figures:
            settings = {key: value for key, value in row.items() if key not in FIGURES}
            with SummaryWriter(str(folder / "trials" / row["name"])) as writer:
                write_hparams(writer, {"method": row["method"], "seed": row["seed"], **settings}, figures, 0)
