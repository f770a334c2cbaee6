"""The README's commands and examples run, in its order, in an empty folder that has only the configurations."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks():
    return BLOCK.findall((ROOT / "README.md").read_text())


def commands(text):
    """The commands of a block but pip and pytest themselves."""
    for line in text.splitlines():
        for command in line.partition("#")[0].split("&&"):
            if command.strip() and command.split()[0] not in ("pip", "pytest"):
                yield command.strip()


@pytest.mark.slow
def test_every_command_and_example_runs(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    num_run = 0
    for language, text in blocks():
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            path = tmp_path / (name[1] if name else f"example{num_run}.py")
            path.write_text(text)
            todo = [] if name else [[sys.executable, path.name]]
        elif language == "bash":
            todo = [[sys.executable, "-m", "nas", *command.split()[1:]] for command in commands(text)]
            assert all(command.split()[0] == "nas" for command in commands(text))
        else:
            continue
        for words in todo:
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
            num_run += 1
    assert num_run >= 8


def test_the_readme_gives_the_two_commands_and_only_relative_paths():
    text = (ROOT / "README.md").read_text()
    assert "pip install -e . && nas search --config configs/dilation_digits.yaml" in text
    assert "pip install -e '.[dev]' && pytest" in text
    for path in re.findall(r"configs/[\w./]+[\w]", text):
        assert (ROOT / path).is_file(), path


def test_ci_runs_the_readmes_test_command_last():
    test_command = next(line for _, text in blocks() for line in text.splitlines() if line.endswith("&& pytest"))
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == test_command
