"""A small sample of the faults; the whole table is scripts/fault_injection.py itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fault_injection.py"
QUICK = ("kill -9, 0", "written", "SIGTERM", "disk", "damage", "made-up")
SLOW = ("kill -9, 2", "command", "hostile")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [QUICK, SLOW], ids=["quick", "slow"])
def test_nothing_is_lost_and_nothing_hurts(rows):
    """In a process of its own, since it forks."""
    words = [sys.executable, SCRIPT, "--share", "0.01", "--json"]
    done = subprocess.run(
        [*words, *(word for row in rows for word in ("--only", row))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [row["wrong"] for row in found] == [[]] * len(found) and len(found) >= len(rows)
