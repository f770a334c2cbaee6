import json
import subprocess
import sys

import pytest
import torch


@pytest.fixture(scope="module")
def scaling(load_file):
    return load_file("scripts/scaling.py")


def test_averaging_takes_what_its_formula_says(scaling):
    assumed = scaling.Assumed(latency_us=10.0, link=100.0, network=10.0)
    assert scaling.averaging_ms(1, 5, 1e9, assumed) == 0.0
    # 1 GB over 2 processes at 100 GB/s: each sends half and gets half, twice
    assert scaling.averaging_ms(2, 0, 1e9, assumed) == pytest.approx(10.0)
    assert scaling.averaging_ms(64, 0, 1e9, assumed) == pytest.approx(2 * 63 / 64 * 100.0)
    assert scaling.averaging_ms(64, 3, 0, assumed) == pytest.approx(3 * 12 * 0.01)


def test_the_projection_keeps_a_processs_work_and_loses_to_messages_only(scaling):
    measured = scaling.Measured(96.0, 8, 400_000, 17.0, 2000, 25.0, 64)
    rows = scaling.projected(measured, scaling.Assumed())
    assert [row["num_gpus"] for row in rows] == [1, 2, 8, 64]
    assert rows[0]["step_ms"] == pytest.approx(10.0) and rows[0]["efficiency"] == 1.0
    assert rows[0]["num_workers"] == 3  # 25 ms a pair, 10 ms a step
    for row in rows:
        assert row["step_ms"] == pytest.approx(10.0 + row["averaging_ms"])
        assert row["samples_per_second"] == pytest.approx(row["num_gpus"] * 6400 * row["efficiency"])
    text = scaling.report({2: measured}, rows, scaling.Assumed())
    assert "PROJECTION, not measured" in text and "| 64 |" in text


def test_operations_that_do_nothing_on_a_device_do_not_count(scaling):
    x = torch.ones(4, 4)
    with scaling.Operations() as counted:
        (x.view(16).view(2, 8).t() + 1).sum()
        torch.empty(3)
    assert counted.number == 2


@pytest.mark.slow
def test_two_processes_send_the_gradients(scaling, config, tmp_path):
    """Bytes against the sizes of what the search trains: both parameter sets once, and flags of the used ones."""
    words = [sys.executable, scaling.__file__, "--config", str(config()), "--num-batches", "6", "--json", "out.json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())["measured"]
    assert found["1"]["bytes"] == 0 and found["2"]["messages"] > 0
    conv = 2 * (4 * (3 * 1) + 4) + 2 * (4 * (3 * 4) + 4)  # two layers of two candidates, 4 channels, 3 taps, biases
    assert found["2"]["bytes"] > 4 * conv
