"""TensorBoard pages of a launch: curves of the methods as means with bands, and hyperparameters with results."""

from __future__ import annotations

import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nas.drawing.distribution import MAX_LINES
from nas.io.errors import describe
from nas.launch.curves import Curves
from nas.launch.trials import OnEvent, Trial
from nas.runs.pages import write_hparams

PAGES = "dashboard"
"""Folder of the event files of a launch."""
MAX_RUNS = 40
"""TensorBoard shows no run at first if there are more; then the HParams page has a row for each method, not for each trial."""
_SHOWN = ("test", "arch", "search_seconds")


def write_pages(folder: Path, found: Mapping[str, Any], curves: Curves) -> None:
    """Writes an event file for each method, and for each trial that has a result. Old files are removed.

    Args:
        folder: Folder of the event files.
        found: The summary of the launch.
        curves: The curves of its methods.
    """
    shutil.rmtree(folder, ignore_errors=True)
    order = [row["method"] for row in found["settings"]]
    trials = [row for row in found["trials"] if any(key in row for key in _SHOWN)]
    per_trial = len(trials) + len(order) <= MAX_RUNS
    for place, row in enumerate(found["settings"]):
        method = row["method"]
        if not any(method in points for points in curves.values()):
            continue
        with SummaryWriter(str(folder / _run_name(place, method))) as writer:
            writer.add_custom_scalars(_layout(curves, order))
            _write_curves(writer, method, place, curves)
            if not per_trial and "mean" in row:
                figures = {f"launch/{row['part']}": row["mean"], "launch/search_seconds": row["search_seconds"]}
                write_hparams(writer, {"method": method, "seeds": row["num_finished"]}, figures, 0)
    for row in trials if per_trial else ():
        figures = {f"launch/{key}": float(row[key]) for key in _SHOWN if key in row}
        with SummaryWriter(str(folder / "trials" / row["name"])) as writer:
            write_hparams(writer, {"method": row["method"], "seed": row["seed"]}, figures, 0)


class Refreshed:
    """Passes on the states of trials, and writes pages after a trial has finished. Writing takes at most a twentieth of the time.

    Args:
        on_event: Receives the states.
        write: Writes the pages; a failure only warns.
    """

    def __init__(self, on_event: OnEvent, write: Callable[[], None]) -> None:
        self.on_event, self.write = on_event, write
        self._due = 0.0

    def __call__(self, trial: Trial, state: str) -> None:
        self.on_event(trial, state)
        start = time.monotonic()
        if state != "finished" or start < self._due:
            return
        try:
            self.write()
            self._due = time.monotonic() + 20 * (time.monotonic() - start)
        except Exception as error:  # failing pages must not end a search
            warnings.warn(f"the TensorBoard pages of the launch cannot be written: {describe(error)}", stacklevel=2)


def _write_curves(writer: SummaryWriter, method: str, place: int, curves: Curves) -> None:
    """The mean of each curve and its band, one standard deviation wide; the step is the epoch."""
    for tag, found in curves.items():
        mean, lower, upper = _band(tag, place)
        for epoch, value, spread, _ in found.get(method, ()):
            writer.add_scalar(mean, value, epoch)
            writer.add_scalar(lower, value - spread, epoch)
            writer.add_scalar(upper, value + spread, epoch)


def _band(tag: str, place: int) -> tuple[str, str, str]:
    """Tags of mean, lower and upper limit; methods that share a chart share the tags."""
    part = place // MAX_LINES
    name = tag if part == 0 else f"{tag} ({part + 1})"
    return name, f"limits/{name}/lower", f"limits/{name}/upper"


def _layout(curves: Curves, order: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """A page of custom scalars with a chart of at most `MAX_LINES` methods for each curve; TensorBoard shows the last chart first."""
    bands = [
        _band(tag, start)
        for tag, found in curves.items()
        for start in range(0, len(order), MAX_LINES)
        if found.keys() & set(order[start : start + MAX_LINES])
    ]
    return {"Methods: mean and standard deviation": {band[0]: ["Margin", list(band)] for band in reversed(bands)}}


def _run_name(place: int, method: str) -> str:
    return f"{place + 1:02} {re.sub(r'[^A-Za-z0-9.+=, -]+', '_', method)}"
