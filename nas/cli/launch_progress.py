"""The progress of a launch: a live table on a terminal, lines otherwise."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nas.io.csv_file import last_row
from nas.io.errors import shown
from nas.launch.trials import OnEvent, Plan, Trial, judged_half

MAX_ROWS = 20
WAITING, FINISHED = "waiting", "finished"


def quiet(plan: Plan, trials: Sequence[Trial]) -> AbstractContextManager[OnEvent]:
    """Prints nothing."""
    return nullcontext(lambda trial, state: None)


def lines(plan: Plan, trials: Sequence[Trial]) -> AbstractContextManager[OnEvent]:
    """Prints a line for each event on standard error."""
    return nullcontext(lambda trial, state: print(shown(f"{trial.name}: {state}"), file=sys.stderr, flush=True))


@contextmanager
def live(plan: Plan, trials: Sequence[Trial]) -> Iterator[OnEvent]:
    """Draws a table on standard error twice a second."""
    states = {trial.name: FINISHED if not plan.unfinished([trial]) else WAITING for trial in trials}
    since = time.monotonic()

    def draw() -> Table:
        return progress_table(plan, trials, dict(states), time.monotonic() - since)

    with Live(get_renderable=draw, console=Console(stderr=True), refresh_per_second=2):
        yield lambda trial, state: states.update({trial.name: state})


def progress_table(plan: Plan, trials: Sequence[Trial], states: Mapping[str, str], seconds: float) -> Table:
    """A row for each trial, running trials first; the caption counts the trials in each state and the seconds."""
    rank = {FINISHED: 2, WAITING: 1}
    table = Table("search", "state", "epochs", "loss", "metric")
    for trial in sorted(trials, key=lambda trial: rank.get(states[trial.name], 0))[:MAX_ROWS]:
        table.add_row(trial.name, Text(shown(states[trial.name])), *_last_epoch(plan, trial))
    counts = Counter(state if state in rank else "running" for state in states.values())
    table.caption = ", ".join(f"{number} {state}" for state, number in counts.items()) + f"; {seconds:.0f} s"
    return table


def _last_epoch(plan: Plan, trial: Trial) -> list[str]:
    """Epochs, loss and first metric so far: of the arch split, or of the train split while alpha is frozen."""
    try:
        row = last_row(plan.run(trial).metrics_csv)
    except (OSError, ValueError):  # no file yet
        row = {}
    if not row:
        return []
    figures = [f"{value:.4f}" for key, value in row.items() if key.startswith(f"{judged_half(row)}/")]
    return [str(int(row["epoch"]) + 1), *figures[:2]]
