"""The cost of logging: seconds of a search that are spent on scalars and pictures.

Command: python scripts/bench_logging.py --config configs/dilation_gumbel_digits.yaml

The script runs one search and adds up, in the same process, the time inside the callbacks that write scalars (metrics.csv, system.csv,
TensorBoard) and inside the callback that draws pictures and measures the discretization gap. "share" is relative to the whole search, from
its configuration to its summary.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nas
from nas.callbacks import Dashboard, MetricsWriter, SystemWriter

TIMED = {"scalars": (MetricsWriter, SystemWriter), "pictures": (Dashboard,)}
HOOKS = ("on_train_start", "on_train_epoch_end")


def timed(seconds: dict[str, float], kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, its time added up."""

    @functools.wraps(method)
    def run(*args: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args)
        finally:
            seconds[kind] += time.perf_counter() - start

    return run


def measure(config: Path, overrides: tuple[str, ...]) -> dict[str, float]:
    """Seconds of a search, and of what logs in it."""
    seconds = dict.fromkeys(TIMED, 0.0)
    originals = {(owner, hook): vars(owner)[hook] for owners in TIMED.values() for owner in owners for hook in HOOKS}
    try:
        for kind, owners in TIMED.items():
            for owner in owners:
                for hook in HOOKS:
                    setattr(owner, hook, timed(seconds, kind, originals[owner, hook]))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            nas.search(nas.ConfigSource((config,), overrides), out=Path(folder) / "run")
            whole = time.perf_counter() - start
    finally:
        for (owner, hook), method in originals.items():
            setattr(owner, hook, method)
    return {
        "search_seconds": whole,
        "scalars_seconds": seconds["scalars"],
        "scalars_share": seconds["scalars"] / whole,
        "pictures_seconds": seconds["pictures"],
        "pictures_share": seconds["pictures"] / whole,
    }


def main(argv: list[str] | None = None) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options, overrides = parser.parse_known_args(argv)
    result = measure(options.config, tuple(overrides))
    if options.json:
        print(json.dumps(result))
    else:
        print("| figure | value |\n|---|---|")
        for name, value in result.items():
            print(f"| {name.replace('_', ' ')} | {value:.3f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
