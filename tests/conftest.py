"""A small configuration, the command line called in process, and what is skipped without a GPU."""

import gc
import importlib.util
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; set before torch reads it
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from nas.cli import main
from nas.costs import functions, latency


def pytest_addoption(parser):
    parser.addoption("--fault-share", type=float, default=0.01, help="share of the full counts in tests/faults")
    parser.addoption("--fault-seed", type=int, default=0, help="seed of the random faults in tests/faults")


def pytest_collection_modifyitems(config, items):
    """Without a CUDA device one skipped case stands for all cases of a test."""
    if torch.cuda.is_available():
        return
    kept, left_out = {}, []
    for item in items:
        is_gpu = item.get_closest_marker("gpu") is not None
        if is_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        name = item.nodeid.partition("[")[0] if is_gpu else item.nodeid
        if name in kept:
            left_out.append(item)
        else:
            kept[name] = item
    items[:] = kept.values()
    config.hook.pytest_deselected(items=left_out)


def pytest_collection(session):
    """A million objects of imported modules stay: the garbage collector need not go through them again and again."""
    gc.disable()


def pytest_collection_finish(session):
    importlib.import_module("hypothesis")  # at its import, it looks for objects that would be hidden then
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(autouse=True)
def forget_own_modules(tmp_path_factory):
    """Forgets modules that a test wrote and imported, and where: the next one may write another of the same name."""
    before, path, written = set(sys.modules), list(sys.path), str(tmp_path_factory.getbasetemp())
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(written):
            del sys.modules[name]


class Clock:
    """Time that goes on by itself, and at once by as much as somebody sleeps."""

    def __init__(self):
        self.slept = 0.0

    def time(self):
        return time.time() + self.slept

    def monotonic(self):
        return time.monotonic() + self.slept

    def sleep(self, seconds):
        self.slept += seconds


@pytest.fixture
def quick_seconds(monkeypatch):
    """A run's wait for the next second, which names its next event file, takes no time; the names are as after a real wait."""
    clock = Clock()
    for module in ("nas.runs.folder", "tensorboard.summary.writer.event_file_writer"):
        monkeypatch.setattr(f"{module}.time", clock)


@pytest.fixture(scope="session", autouse=True)
def quick_latencies():
    """Latencies are measured for a hundredth of the usual time: no test asks for an exact one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(functions.latency_ms.__kwdefaults__, "min_seconds", 0.005)
        patch.setattr(latency, "MIN_SECONDS", 0.0005)
        yield


PATIENCE = 300
"""Seconds that a test waits for another process, on a busy machine."""


@pytest.fixture(scope="session")
def wait_until():
    """Waits for a condition; fails where the process that should bring it about has ended, or takes very long."""

    def wait(condition, process=None):
        end = time.monotonic() + PATIENCE
        while not condition():
            ended = process is not None and process.poll() is not None
            assert condition() or not ended, f"the process ended: {process.communicate()[1]}"
            assert time.monotonic() < end, f"nothing came in {PATIENCE} s"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def in_children():
    """Calls functions at once, each in a child of this process, which imports nothing anew; returns the exit codes."""

    def as_a_process(function):
        warnings.resetwarnings()
        function()

    def call(*functions):
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=as_a_process, args=(function,)) for function in functions]
        for child in children:
            child.start()
        for child in children:
            child.join(PATIENCE)
        return [child.exitcode for child in children]

    return call


@pytest.fixture(scope="session")
def load_file():
    """Loads a Python file by its path in the project; the file may import others in its folder."""

    def load(name):
        path = Path(__file__).parents[1] / name
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(path.parent), *sys.path])
            spec.loader.exec_module(module)
        return module

    return load


class Operations(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def operations():
    """Makes a mode that notes which operations run under it."""
    return Operations


TINY = {
    "seed_everything": 3,
    # one thread: other tests set the number in this process, and sums of another number round differently
    "trainer": {"max_epochs": 3, "accelerator": "cpu", "checkpoint_seconds": 0, "num_threads": 1, "num_images": 1},
    "model": {
        "space": {
            "class_path": "search_spaces.dilation.DilationNet1d",
            "init_args": {"num_layers": 2, "channels": 4, "dilations": [1, 8]},
        },
        "relaxation": {"class_path": "nas.relaxations.GumbelSoftmax", "init_args": {"hard": True}},
        "tau": {"class_path": "nas.tau.Exponential"},
        "task": {"class_path": "nas.tasks.Classification", "init_args": {"num_classes": 10}},
        "weight_optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        "arch_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.03}},
        "warmup_epochs": 1,
    },
    "data": {"class_path": "nas.data.SequentialDigits", "init_args": {"batch_size": 100}},
    "retrain": {"trainer": {"max_epochs": 2}, "optimizer": {"class_path": "torch.optim.AdamW"}},
}


@pytest.fixture(scope="session")
def tiny():
    """The text of a small configuration."""
    return yaml.safe_dump(TINY)


class Answer:
    """What a command said."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def result(self):
        return json.loads(self.out.splitlines()[-1])

    @property
    def complaint(self):
        """The one line of an error."""
        lines = [line for line in self.err.splitlines() if line.startswith("nas: ")]
        assert len(lines) == 1 and self.err.endswith(lines[0] + "\n"), self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture(scope="session")
def ready_interpreter():
    """Runs a script as ``subprocess.run([sys.executable, "-I", ...], check=True)`` does, without importing torch each time."""
    script = Path(__file__).parent / "nas" / "export" / "ready_interpreter.py"
    with ExitStack() as stack:

        @cache
        def server():
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            return stack.enter_context(subprocess.Popen([sys.executable, "-I", str(script)], **pipes))

        def run(command, *, cwd, env, **_):
            assert command[:2] == [sys.executable, "-I"]
            server().stdin.write(json.dumps({"command": command, "cwd": cwd, "env": env}) + "\n")
            server().stdin.flush()
            done = subprocess.CompletedProcess(command, **json.loads(server().stdout.readline()))
            done.check_returncode()
            return done

        yield run


@pytest.fixture
def quick_checks(monkeypatch, ready_interpreter):
    """Exports are checked in children of one interpreter; those of session fixtures each in an interpreter of its own."""
    quick = SimpleNamespace(run=ready_interpreter, SubprocessError=subprocess.SubprocessError)
    monkeypatch.setattr("nas.export.verify.subprocess", quick)


@pytest.fixture
def run_cli(capfd, quick_seconds, quick_checks):
    """Calls the command line with words."""

    def call(*words):
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Answer(code, *capfd.readouterr())

    return call


@pytest.fixture
def config(tmp_path, monkeypatch, quick_seconds):
    """Writes a small configuration, in an empty working directory; changes are ``section.key`` -> value."""
    monkeypatch.chdir(tmp_path)

    def write(changes=None, name="tiny.yaml"):
        values = json.loads(json.dumps(TINY))
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            section = values
            for parent in parents:
                section = section[parent]
            section[last] = value
        Path(name).write_text(yaml.safe_dump(values))
        return Path(name)

    return write


@pytest.fixture(scope="session")
def searched(tmp_path_factory, tiny):
    """The folder of a small search, made once: what ``nas search --config config()`` writes."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.yaml").write_text(tiny)
    run = folder / "run"
    assert main(["search", "--config", str(folder / "tiny.yaml"), "--out", str(run), "--json"]) == 0
    return run


@pytest.fixture
def run(config, searched):
    """A copy of it in the working directory, beside its configuration."""
    config()
    shutil.copytree(searched, "run")
    return "run"


@pytest.fixture(scope="session")
def original(searched, tmp_path_factory):
    """The folder of the same search, exported."""
    run = tmp_path_factory.mktemp("original") / "run"
    shutil.copytree(searched, run)
    assert main(["export", "--run", str(run), "--json"]) == 0
    return run


@pytest.fixture(scope="session")
def finished(original, tmp_path_factory):
    """The same, retrained too."""
    run = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(original, run)
    assert main(["retrain", "--run", str(run), "--json"]) == 0
    return run
