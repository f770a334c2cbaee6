"""Reads made-up configurations by every command that only reads, each in a child process that notes what Python's audit events tell."""

import ast
import contextlib
import inspect
import json
import os
import random
import shutil
import sys
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages

import pytest
import yaml

import nas
from nas.cli import main
from nas.io.files import sha256

PACKAGES = ("nas", "search_spaces", "torch", "torchvision", "torchmetrics", "pytorch_lightning")
UNLOADED = "nas.__main__ nas.export.fresh nas.launch.ray_tune nas.launch.slurm nas.ops._kernels_cpu nas.ops._kernels_cuda".split()
"""Modules that run something when they are imported, or need what may not be there."""
SLOTS = """
    model/space model/relaxation model/tau model/bilevel model/task model/weight_optimizer model/arch_optimizer model/derive
    model/warmup_paths model/regularizers/0 data retrain/optimizer retrain/task data/init_args/transforms/0
    data/init_args/train_transforms/0 model/space/init_args/space
    trainer/max_epochs trainer/accelerator trainer/devices model/guards model/cost/macs model/cost/NAME
    model/space/init_args/channels model/tau/init_args/start data/init_args/batch_size seed_everything
    retrain/trainer/max_epochs retrain/space/channels retrain/data/batch_size retrain/scheduler
""".split()
"""Keys that get a made-up value: those of classes, then those of plain values."""
VISION = {"class_path": "nas.data.Vision", "init_args": {"name": "ImageFolder", "root": "images"}}
WRAPPED = {"class_path": "search_spaces.partial_channels.PartialChannels", "init_args": {}}


def load_all():
    """Imports our modules and the packages, so that children import as little as possible."""
    for package in PACKAGES:
        import_module(package)
    for package in PACKAGES[:2]:
        for module in walk_packages(import_module(package).__path__, f"{package}."):
            if module.name not in UNLOADED:
                import_module(module.name)


def callables(package, every):
    """Dotted paths of what a package's modules define or import at their top; modules that are not loaded are read where `every`."""
    found = set()
    root = Path(find_spec(package).submodule_search_locations[0])
    for path in root.rglob("*.py"):
        parts = (package, *path.relative_to(root).with_suffix("").parts)
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if loaded := sys.modules.get(module):
            found |= {f"{module}.{name}" for name, value in vars(loaded).items() if callable(value)}
        elif every and all(part.isidentifier() for part in parts):
            with contextlib.suppress(SyntaxError, ValueError):
                body = ast.parse(path.read_bytes()).body
                found |= {f"{module}.{n.name}" for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return sorted(found)


class Grammar:
    """Makes up class paths with arguments, out of what the packages have, ours twice as often."""

    def __init__(self, seed, every):
        load_all()
        self.names = {package: callables(package, every) for package in PACKAGES}
        self.random = random.Random(seed)

    def path(self):
        return self.random.choice(self.names[self.random.choice(("nas", *PACKAGES))])

    def value(self, depth=0):
        path = self.path()
        form = self.random.randrange(4)
        if form == 0:
            return path
        arguments = {}
        module, _, name = path.rpartition(".")
        with contextlib.suppress(Exception):
            for parameter in inspect.signature(getattr(sys.modules[module], name)).parameters.values():
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    nested = depth < 2 and self.random.random() < 0.3
                    arguments[parameter.name] = self.value(depth + 1) if nested else self.argument()
        return {"class_path": path, "init_args": arguments} if form > 1 else {"class_path": path}

    def argument(self):
        known = ("marked", "https://127.0.0.1:9/x", ["evil_mod"], 1, 0.5, True, None, {"a": 1}, "evil_mod.Space")
        return self.random.choice(known)

    def changes(self, slot):
        """(keys, value) to set, one after the other."""
        if "transforms" in slot:
            yield "data", VISION
        if slot == "model/space/init_args/space":
            yield "model/space", WRAPPED
        value = self.value()
        slot = slot.replace("NAME", self.path())
        yield (slot[:-2], [value]) if slot.endswith("/0") else (slot, value)


def change(path, changes):
    """Sets keys of a YAML file."""
    values = yaml.safe_load(path.read_text())
    for slot, value in changes:
        *parents, last = slot.split("/")
        section = values
        for parent in parents:
            section[parent] = section.get(parent) or {}
            section = section[parent]
        section[last] = value
    path.write_text(yaml.safe_dump(values))
    return values


def commands(run, genotype):
    """Name -> what reads a run folder."""
    config = ["--config", f"{run}/config.yaml"]
    lines = {
        "profile": ["profile", *config],
        "profile genotype": ["profile", *config, "--genotype", genotype],
        "report": ["report", "--run", run],
        "report md": ["report", "--run", run, "--format", "md"],
        "derive": ["derive", "--run", run],
        "evaluate": ["evaluate", "--run", run],
        "export": ["export", "--run", run, "--formats", "genotype", "--out", f"{run}/new"],
        "export genotype": ["export", *config, "--genotype", genotype, "--formats", "genotype", "--out", f"{run}/new"],
        "resume": ["search", "--resume", run],
    }
    return {
        **{name: lambda words=words: main([str(word) for word in words]) for name, words in lines.items()},
        "load": lambda: nas.load(run),
        "create_model": lambda: nas.create_model(run, num_classes=3),
        "load export": lambda: nas.load(f"{run}/export"),
    }


def make(finished, place, changes):
    """A working directory with a run of a changed configuration, and a module that leaves a mark when it is imported."""
    shutil.copytree(finished, place / "run")
    (place / "evil_mod.py").write_text("open('touched', 'w')\nclass Space: pass\n")
    values = change(place / "run" / "config.yaml", changes)
    change(place / "run" / "retrain" / "config.yaml", changes)
    change_export(place / "run" / "export", values["model"]["space"])
    return place


def audit(watch, finished, here, grammar, num, every):
    """Tries `num` configurations by every command or, in turn, by one; returns counts, and what was not allowed."""
    counts = {"slots": Counter(), "commands": Counter(), "codes": Counter()}
    wrong = []
    names = list(commands("", ""))
    for number in range(num):
        slot = SLOTS[number % len(SLOTS)]
        changes = list(grammar.changes(slot))
        shutil.rmtree(here, ignore_errors=True)
        made = make(finished, here / "made", changes)
        answers = {}
        for name in names if every else [names[number % len(names)]]:
            place = shutil.copytree(made, here / name.replace(" ", "_"))
            run = (place / "run").resolve()
            answers[name] = watch(commands(run, finished / "genotype.json")[name], run, name)
            if len(answers) % 2 == 0:  # two at a time
                collect(answers, counts, wrong, slot, changes)
        collect(answers, counts, wrong, slot, changes)
    return counts, wrong


def collect(answers, counts, wrong, slot, changes):
    for name, answer in answers.items():
        seen = answer()
        counts["slots"][slot] += 1
        counts["commands"][name] += 1
        counts["codes"][seen["code"]] += 1
        wrong += [f"{name}: {event}; said {seen['said']}; {changes}" for event in seen["events"]]
    answers.clear()


def change_export(export, space):
    path = export / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "space": space}))
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["sha256"]["config.json"] = sha256(path)
    manifest.pop("checksum", None)
    (export / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("num", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_what_is_read_does_nothing_that_is_not_allowed(watch, finished, tmp_path, num):
    every = num > 30
    counts, wrong = audit(watch, finished, tmp_path, Grammar(seed=20, every=every), num, every)
    print(counts)
    assert not wrong, "\n".join(wrong)
    assert set(counts["slots"]) == set(SLOTS) and set(counts["commands"]) == set(commands("", ""))
    assert not every or min(counts["slots"].values()) >= 5
    assert counts["codes"][2] > counts["codes"][0] > 0  # most are refused, some harmless ones are read


def test_the_audit_notices(watch, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "evil_mod.py").write_text("")

    def hostile():
        sys.path.append(str(tmp_path))
        import_module("evil_mod")
        (tmp_path / "marked").write_text("")
        os.system("true")
        raise ValueError("refused")

    events = " ".join(watch(hostile, run, "hostile")()["events"])
    assert all(word in events for word in ("exec (<code", "open ", "os.system", "made marked"))
