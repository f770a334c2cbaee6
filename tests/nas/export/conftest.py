"""What the tests of exports share: loading a file's text as a module, small networks of every space, and an exported run."""

import json
import shutil
import subprocess
import sys
import types
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nas
from nas.costs.limits import passes
from nas.export import verify
from nas.genotype import Genotype
from nas.supernet.structure import random_choices
from search_spaces.darts import Darts
from search_spaces.dilation import DilationNet1d, DilationNet2d
from search_spaces.macro import MacroNet
from search_spaces.mobile import MobileNet
from search_spaces.nasbench201 import NASBench201
from search_spaces.partial_channels import PartialChannels
from search_spaces.tabular import TabularMLP

SMALL_DARTS: dict[str, Any] = {"search_channels": 4, "search_layers": 3, "channels": 4, "layers": 4, "num_nodes": 2}

SPACES = {
    "dilation": (lambda: DilationNet1d(channels=4), (1, 64)),
    "dilation, depthwise": (lambda: DilationNet2d(2, 4, (1, 2), 3, depthwise=True, kernel_sizes=(3, 5)), (3, 8, 8)),
    "nasbench201": (lambda: NASBench201(4, 1), (3, 8, 8)),
    "darts": (lambda: Darts(**SMALL_DARTS), (3, 32, 32)),
    "darts, imagenet": (
        lambda: Darts(**SMALL_DARTS, dataset="imagenet", auxiliary=False, drop_path=0.2),
        (3, 32, 32),
    ),
    "partial channels": (lambda: PartialChannels(Darts(**SMALL_DARTS), 2), (3, 32, 32)),
    "macro": (lambda: MacroNet(4, (1, 2)), (3, 8, 8)),
    "mobile": (
        lambda: MobileNet(((8, 2, 2), (12, 2, 1)), (3, 5), (1, 3), (False, True), 8, 8, 16, 10, 1),
        (1, 16, 16),
    ),
    "tabular": (lambda: TabularMLP(12, 3, (4, 8), (0, 1, 2), batch_norm=True, dropout=0.1), (12,)),
}


@pytest.fixture(params=SPACES)
def space(request):
    """(space, shape of one input) of each shipped space, small."""
    make, shape = SPACES[request.param]
    return make(), shape


@pytest.fixture
def small_space():
    """Makes a shipped space, small, by its name here."""
    return lambda name: SPACES[name][0]()


@pytest.fixture
def spaces():
    """Each of them."""
    return [make() for make, _ in SPACES.values()]


def draw(space, seed):
    """A random architecture that makes sense, as a plain network with weights and statistics that are not the initial ones."""
    searched = space.network()
    tries = (Genotype(random_choices(searched, seed + 1_000_000 * i)) for i in range(1000))
    genotype = next(found for found in tries if passes(space.check_genotype, found.choices))
    torch.manual_seed(seed)
    with nas.architecture(genotype):
        network = space.network("retrain")
    return genotype, stirred(network)


@torch.no_grad()
def stirred(network):
    """The network in eval mode, every tensor of its state drawn at random: variances positive, counters as they are."""
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if key.endswith("var") else tensor.normal_(0, 0.3)
    return network.eval()


@pytest.fixture
def drawn():
    return draw


@pytest.fixture
def run_source(monkeypatch):
    """Runs a file's text as a module in which this framework cannot be imported."""

    def run(source):
        module = types.ModuleType("exported")
        module.__file__ = "/nowhere/network.py"
        with monkeypatch.context() as patch:
            for name in ("nas", "search_spaces"):
                patch.setitem(sys.modules, name, None)
            exec(compile(source, "network.py", "exec"), vars(module))
        return module

    return run


@pytest.fixture
def rebuilt(run_source):
    """The network of a file's text, with the weights of another."""

    def build(source, network):
        copy = run_source(source).Network()
        assert list(copy.state_dict()) == list(network.state_dict())
        copy.load_state_dict(network.state_dict())
        return copy.eval()

    return build


@pytest.fixture
def exported(original, tmp_path, monkeypatch):
    """A copy of it, in the working directory: the export's folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(original, "run")
    return "run/export"


@pytest.fixture
def finished(exported):
    """The same without the export: the run's folder."""
    shutil.rmtree(exported)
    return "run"


@pytest.fixture(autouse=True)
def every_check_is_quick(quick_checks):
    """Also those of ``nas.export_network``."""


@pytest.fixture
def interpreter(monkeypatch):
    """Takes the place of the interpreter that runs exported files: what each format computes of the right outputs, or how it dies."""

    def make(computed):
        def run(command, **_):
            folder, result, *names = command[3:]
            if any(computed[name] is None for name in names):
                raise subprocess.CalledProcessError(-11, command, stderr="Segmentation fault")
            expected = {k: v for k, v in load_file(f"{folder}/examples.safetensors").items() if k.startswith("output.")}
            save_file({f"{name}/{k}": computed[name](v) for name in names for k, v in expected.items()}, result)
            return subprocess.CompletedProcess(command, 0, json.dumps(dict.fromkeys(names)), "")

        monkeypatch.setattr(verify.subprocess, "run", run)

    return make
