"""The scripts of examples/own_code: how little a search changes, and what it finds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "own_code"
PAIRS = ("lightning", "loop", "mixup", "hugging_face")
MAX_CHANGED = 12


@pytest.mark.skipif(shutil.which("git") is None, reason="counts by git")
@pytest.mark.parametrize("name", PAIRS)
def test_a_search_changes_few_lines(name):
    before, after = FOLDER / f"{name}_train.py", FOLDER / f"{name}_search.py"
    assert len(before.read_text().splitlines()) >= 80
    words = ["git", "diff", "--no-index", "--numstat", str(before), str(after)]
    added, deleted = subprocess.run(words, capture_output=True, text=True).stdout.split()[:2]
    assert 0 < int(added) + int(deleted) <= MAX_CHANGED


def found(name, folder):
    """Runs a script in a process of its own; returns the summary of its search."""
    words = [sys.executable, str(FOLDER / f"{name}_search.py"), str(folder)]
    answer = subprocess.run(words, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    (path,) = folder.rglob("summary.json")
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("lightning", 0.9), ("loop", 0.9), ("mixup", 0.9)])
def test_scripts_find_networks_that_work_and_keep_limits(name, least, tmp_path):
    # on these seeds 0.96, 0.97, 0.96; the scripts before the search 0.71, 0.98, 0.97
    summary = found(name, tmp_path / "run")
    assert summary["metrics"]["val_accuracy"] > least and summary["target_met"] in (None, True)


@pytest.mark.integrations
@pytest.mark.parametrize("name", ["hugging_face", "accelerate"])
def test_scripts_of_hugging_face_run(name, tmp_path):
    pytest.importorskip("transformers")
    words = [sys.executable, str(FOLDER / f"{name}_search.py"), str(tmp_path / "run")]
    answer = subprocess.run(words, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "run").is_dir()
