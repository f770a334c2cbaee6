"""How calls are counted."""

import runpy
from pathlib import Path

import torch

from nas.relaxations.base import at_least_float32

count_calls = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "step_calls.py"))["count_calls"]


def test_calls_into_this_project_are_counted_and_no_others():
    def run():
        for _ in range(3):
            at_least_float32(torch.zeros(1).half())
        sorted([3, 1, 2], key=lambda value: -value)

    assert count_calls(run) == {"nas/relaxations/base.py": 3}
