"""Folders that somebody else made, and a child process that tells what a call did."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
import yaml

import nas as package

WATCHED = """
    exec import open subprocess.Popen os.system os.exec os.posix_spawn os.fork os.forkpty pty.spawn
    os.remove os.rename os.mkdir os.rmdir os.link os.symlink os.truncate os.chmod os.kill
    socket.__new__ socket.bind socket.connect socket.getaddrinfo _thread.start_new_thread
    pickle.find_class shutil.rmtree shutil.move shutil.copyfile webbrowser.open urllib.Request
""".split()
INSTALLED = [*sysconfig.get_paths().values(), str(Path(package.__file__).parents[1])]
INSIDE = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree")
"""Allowed in the folder that the command was given, as is opening files there for writing."""
SECONDS = 120


def allowed(event, args, run, name):
    """The committed list: modules that are installed, files of the run folder, and the fresh interpreter in which an export is checked."""
    if event == "import":  # of a library or of Python code, which is executed next
        return args[1] is None or is_installed(args[1])
    if event == "exec":
        return args[0].co_filename.startswith("<") or is_installed(args[0].co_filename)
    if event == "subprocess.Popen":
        return name.startswith("export") and args[0] == sys.executable
    if event == "open":
        writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        return not writes or isinstance(args[0], int) or args[0] == os.devnull or is_inside(args[0], run)
    places = args[:2] if event == "os.rename" else args[:1]
    return event in INSIDE and all(is_inside(place, run) for place in places)


def is_installed(path):
    return any(Path(path).is_relative_to(place) for place in INSTALLED)


def is_inside(path, run):
    return Path(os.path.abspath(os.fsdecode(path))).is_relative_to(run)


def watched(function, run, name):
    """Calls `function` and returns what it did that is not allowed, its exit code, and its last line."""
    events, watching = [], True

    def hook(event, args):
        nonlocal watching
        if watching and event in WATCHED:
            watching = False  # what the check itself does
            if not allowed(event, args, run, name):
                events.append(f"{event} {args!r:.200}")
            watching = True

    os.chdir(run.parent)
    torch.set_num_threads(1)
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        sys.addaudithook(hook)
        try:
            result = function()
            code = result if isinstance(result, int) else 0
        except ValueError as error:
            code = 2
            said.write(f"nas: {' '.join(str(error).split())}\n")
        watching = False
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("nas: warning: ")]
    if code not in (0, 1, 2) or (code and (len(lines) != 1 or not lines[0].startswith("nas: "))):
        events.append(f"exit code {code}, said {lines[:3]}")
    events += [f"made {name}" for name in ("touched", "marked") if (run.parent / name).exists()]
    return {"events": events, "code": code, "said": lines[-1:]}


@pytest.fixture
def watch():
    """Calls a function in a child; see `forked`."""
    return forked


def forked(function, run, name):
    """The same in a child process; gives what reads its answer."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        try:
            answer = watched(function, run, name)
        except BaseException as error:
            answer = {"events": [f"raised {error!r:.300}"], "code": 9, "said": []}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)

    def answer():
        with open(reading) as file:
            text = file.read()
        os.waitpid(pid, 0)
        return json.loads(text) if text else {"events": ["died"], "code": 9, "said": []}

    return answer


EVIL = "from pathlib import Path\nPath('touched').touch()\n\ndef cost(network, inputs):\n    return 1.0\n\nclass Space:\n    pass\n"


class Folder:
    """A working directory with a run and a launch, a module that leaves a mark when it is imported, and files of somebody else's."""

    def __init__(self, path, finished, run_cli):
        self.path, self.nas = path, run_cli
        shutil.copytree(finished, path / "run")
        (path / "evil_mod.py").write_text(EVIL)
        (path / "precious.txt").write_text("step\nprecious\n")
        (path / "precious").mkdir()
        (path / "precious" / ".x.tmp").write_text("precious")
        (path / "launch").mkdir()
        shutil.copy(finished / "config.yaml", path / "launch" / "base.yaml")
        self.write_launch()

    def __truediv__(self, name):
        return self.path / name

    def write_launch(self, **changes):
        trial = {"name": "seed0", "seed": 0, "settings": {}, **changes.pop("trial", {})}
        content = {"format": "gumbel-nas/launch", "version": 1, "retrain": False, "num_baseline": 0, "trials": [trial]}
        content = {key: value for key, value in {**content, **changes}.items() if value != "missing"}
        (self / "launch" / "launch.json").write_text(json.dumps(content))

    def change_config(self, run, key, value):
        path = self / run / "config.yaml"
        values = yaml.safe_load(path.read_text())
        section = values
        *parents, last = key.split("/")
        for parent in parents:
            section = section[parent]
        section[last] = value
        path.write_text(yaml.safe_dump(values))

    def change_json(self, name, **changes):
        content = json.loads((self / name).read_text())
        content.pop("checksum", None)
        (self / name).write_text(json.dumps({**content, **changes}))

    def unfinish(self):
        for name in ("summary.json", "genotype.json", "manifest.json"):
            (self / "run" / name).unlink()
        shutil.rmtree(self / "run" / "retrain")

    def outside(self, given):
        """Content of all files but those of the folder that the command was given."""
        found = {}
        for parent, _, names in os.walk(self.path):
            for name in names:
                path = Path(parent, name)
                if self / given not in path.parents and "__pycache__" not in path.parts:
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "other"
        return found

    def refuse(self, given, words, said):
        """Runs a command that must answer with one line, and change nothing outside."""
        before = self.outside(given)
        answer = self.nas(*words)
        assert answer.code in (1, 2), answer.out
        assert re.search(said, answer.complaint), answer.complaint
        assert self.outside(given) == before
        self.check_no_mark()

    def check_no_mark(self):
        assert not (self / "touched").exists() and "evil_mod" not in sys.modules


@pytest.fixture
def folder(finished, run_cli, tmp_path, monkeypatch):
    """Files that somebody else made, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_mod", raising=False)
    return Folder(tmp_path, finished, run_cli)
