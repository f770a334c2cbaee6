"""Kills searches, damages files, and feeds hostile ones; prints what came of it as a table.

python scripts/fault_injection.py [--share 0.1] [--only kill] [--json]

Everything happens in a temporary folder. Exit code 1 where a promise was broken. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faults import damage, hostile, killing
from rich.console import Console
from rich.table import Table

Row = tuple[str, str, Callable[[], list[str]]]


class Outcome(NamedTuple):
    """What came of a row."""

    what: str
    tried: str
    wrong: list[str]
    seconds: float


def rows(folder: Path, share: float, seed: int) -> list[Row]:
    """What is tried: name, how often, and the function that returns what went wrong."""

    def num(count: int) -> int:
        return max(1, round(count * share))

    def draw(name: str) -> random.Random:
        return random.Random(f"{seed}/{name}")

    return [
        *[
            (
                f"kill -9, {workers} loader workers",
                f"{num(60)} after the first checkpoint, {num(5)} before",
                lambda workers=workers: killing.kills(folder, workers, num(60), num(5), draw(f"kills{workers}")),
            )
            for workers in (0, 2)
        ],
        (
            "kill -9 of the command",
            f"{num(10)} after the first checkpoint",
            lambda: killing.kills_of_commands(folder, num(10), draw("commands")),
        ),
        *[
            (
                f"kill -9 while a checkpoint is written, TMPDIR {where}",
                str(num(100)),
                lambda elsewhere=elsewhere: killing.kills_while_writing(
                    folder, num(100), elsewhere, draw(str(elsewhere))
                ),
            )
            for elsewhere, where in ((False, "beside it"), (True, "elsewhere"))
        ],
        ("SIGTERM", str(num(50)), lambda: killing.terminations(folder, num(50), draw("terminations"))),
        ("full disk", f"{num(20)} sizes", lambda: killing.full_disks(folder, num(20))),
        (
            "damage to checkpoints, exports, genotypes",
            f"{num(1000)} bit flips, {num(200)} truncations",
            lambda: damage.damages(folder, num(1000), num(200), draw("damage")),
        ),
        ("hostile input", "configurations, genotypes, arrays, checkpoints", lambda: hostile.hostile_inputs(folder)),
        ("made-up configurations and genotypes", f"{300 * share:.0f} s", lambda: hostile.fuzz(folder, 300 * share)),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="share of the full counts")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="rows whose name contains this; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, counts, run in rows(Path(folder), options.share, options.seed):
            if options.only is None or any(text in name for text in options.only):
                start = time.monotonic()
                wrong = run()
                found.append(Outcome(name, counts, wrong, time.monotonic() - start))
                print(f"{name}: {len(wrong)} wrong, {found[-1].seconds:.0f} s", file=sys.stderr, flush=True)
                for line in wrong:
                    print(f"  {line}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([row._asdict() for row in found]))
    else:
        table = Table("what", "tried", "wrong", "seconds")
        for row in found:
            table.add_row(row.what, row.tried, str(len(row.wrong)), f"{row.seconds:.0f}")
        Console().print(table)
    return 1 if any(row.wrong for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
