"""How calls are counted."""

import runpy
from pathlib import Path

import nas.io.rng

count_calls = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "step_calls.py"))["count_calls"]


def test_calls_into_this_project_are_counted_and_no_others():
    def run():
        for counter in range(3):
            nas.io.rng.derive_seed(0, "x", counter)
        sorted([3, 1, 2], key=lambda value: -value)

    found = count_calls(run)
    assert set(found) == {"nas/io/rng.py"} and found.total() % 3 == 0 and found.total() >= 3
