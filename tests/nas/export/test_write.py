"""Whole exports: every format proven without the framework, damage named, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nas as framework
from nas.export import write
from nas.export.batch_norm import fold_batch_norms
from nas.export.manifest import read_manifest
from nas.genotype import Genotype
from nas.io.files import sha256

FILES = {
    "README.md",
    "architecture.svg",
    "config.json",
    "examples.safetensors",
    "genotype.json",
    "manifest.json",
    "model.onnx",
    "model.pt2",
    "model.safetensors",
    "network.py",
}
ALL = "genotype,python,safetensors,onnx,pt2"

SMALL_DARTS: dict[str, Any] = {
    "class_path": "search_spaces.darts.Darts",
    "init_args": {
        "search_channels": 4,
        "search_layers": 3,
        "channels": 4,
        "layers": 3,
        "num_nodes": 2,
        "in_channels": 1,
    },
}
DIGITS = {"class_path": "nas.data.Digits", "init_args": {"batch_size": 100}}
SEARCHES = {
    "dilation": {},
    "dilation, depthwise": {
        "model.space": {
            "class_path": "search_spaces.dilation.DilationNet2d",
            "init_args": {"num_layers": 2, "channels": 4, "dilations": [1, 2], "depthwise": True},
        },
        "data": DIGITS,
    },
    "nasbench201": {
        "model.space": {
            "class_path": "search_spaces.nasbench201.NASBench201",
            "init_args": {"channels": 4, "cells_per_stage": 1, "in_channels": 1},
        },
        "data": DIGITS,
    },
    "darts": {
        "model.space": {**SMALL_DARTS, "init_args": {**SMALL_DARTS["init_args"], "auxiliary": False}},
        "data": DIGITS,
    },
    "partial channels": {
        "model.space": {
            "class_path": "search_spaces.partial_channels.PartialChannels",
            "init_args": {
                "space": {**SMALL_DARTS, "init_args": {**SMALL_DARTS["init_args"], "auxiliary": False}},
                "proportion": 2,
            },
        },
        "data": DIGITS,
    },
    "macro": {
        "model.space": {
            "class_path": "search_spaces.macro.MacroNet",
            "init_args": {"channels": 4, "stages": [1, 2], "in_channels": 1},
        },
        "data": DIGITS,
    },
    "mobile": {
        "model.space": {
            "class_path": "search_spaces.mobile.MobileNet",
            "init_args": {
                "stages": [[8, 2, 2], [12, 1, 1]],
                "kernels": [3, 5],
                "squeeze_excite": [False, True],
                "stem_channels": 8,
                "first_channels": 8,
                "head_channels": 16,
                "num_classes": 10,
                "in_channels": 1,
            },
        },
        "data": DIGITS,
    },
    "tabular": {
        "model.space": {
            "class_path": "search_spaces.tabular.TabularMLP",
            "init_args": {"num_features": 30, "num_outputs": 2, "widths": [4, 8]},
        },
        "model.task": {"class_path": "nas.tasks.Classification", "init_args": {"num_classes": 2}},
        "data": {"class_path": "nas.data.BreastCancer", "init_args": {"batch_size": 50}},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_search_derive_export_verify(run_cli, config, name):
    """Of every space, both what a search leaves and what a retraining does: in all formats, proven in a fresh interpreter."""
    path = config(
        {**SEARCHES[name], "trainer.max_epochs": 1, "model.warmup_epochs": 0, "retrain.trainer.max_epochs": 1}
    )
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    if name == "partial channels":
        assert "cannot inherit the supernet's weights" in run_cli("export", "--run", "run").complaint
    else:
        answer = run_cli("export", "--run", "run", "--formats", ALL, "--out", "derived", "--json")
        assert_proven(answer.result, "derived")
    assert run_cli("retrain", "--run", "run").code == 0
    answer = run_cli("export", "--run", "run", "--formats", ALL, "--json")
    assert_proven(answer.result, "run/export")
    assert json.loads(Path("run/export/manifest.json").read_text())["origin"] == "retrained"
    answer = run_cli("export", "--verify", "run/export", "--json")
    assert answer.code == 0
    assert_proven(answer.result, "run/export")
    network = framework.load("run/export")
    examples = load_file("run/export/examples.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        assert torch.equal(network(examples["input.0"]), examples["output.7.0"])
    torch.set_num_threads(threads)


def assert_proven(result, folder):
    assert set(os.listdir(folder)) == FILES
    report = result["verified"]
    assert set(report) == {"files", "genotype", "safetensors", "python", "onnx", "pt2"}
    assert all(row["ok"] for row in report.values())
    assert report["python"]["max_abs_diff"] == report["pt2"]["max_abs_diff"] == 0
    assert report["onnx"]["max_abs_diff"] <= 1e-5


def test_the_default_export_of_a_search(run_cli, exported):
    assert set(os.listdir(exported)) == FILES - {"model.onnx"}
    manifest = read_manifest(Path(exported))
    assert manifest["input"] == {
        "shapes": [["batch", 1, 64]],
        "dtypes": ["float32"],
        "preprocessing": "8x8 pixels of 0 to 16, divided by 16",
    }
    assert manifest["metric"]["split"] == "arch" and manifest["params"] > 0 and manifest["macs"] > 0
    card = Path(f"{exported}/README.md").read_text()
    assert "from network import load" in card and "search_spaces.dilation.DilationNet1d" in card
    assert all(label in card for label in manifest["choices"].values())
    network, examples = framework.load(exported), load_file(f"{exported}/examples.safetensors")
    run = framework.load("run")
    for size in (1, 2, 7):  # the order of a sum may depend on the number of threads
        x = examples["input.0"][:size]
        torch.testing.assert_close(network(x), examples[f"output.{size}.0"])
        torch.testing.assert_close(run(x), examples[f"output.{size}.0"])
    assert not network.training
    answer = run_cli("export", "--run", "run")
    assert answer.code == 2 and "exists already" in answer.complaint


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_no_path_of_this_machine_is_written(tmp_path, form):
    network = torch.nn.Sequential(
        torch.nn.Conv1d(2, 4, 3, padding=1),
        torch.nn.BatchNorm1d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 3),
    )
    framework.export_network(network.eval(), torch.randn(3, 2, 8), tmp_path / "out", formats=(form,))
    content = [path.read_bytes() for path in (tmp_path / "out").glob("model.*")]
    if form == "pt2":
        with zipfile.ZipFile(tmp_path / "out" / "model.pt2") as archive:
            content += [archive.read(name) for name in archive.namelist()]
    assert content
    for place in (Path(torch.__file__).parents[1], Path(framework.__file__).parents[1], tmp_path):
        assert not any(str(place).encode() in data for data in content)


def test_damage_is_named(run_cli, exported, tmp_path):
    folder = Path(exported)
    for name in sorted(set(os.listdir(folder)) - {"manifest.json"}):
        content = (folder / name).read_bytes()
        middle = len(content) // 2
        (folder / name).write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
        answer = run_cli("export", "--verify", exported)
        assert answer.code == 1 and f"{name}: not as it was written" in answer.complaint
        (folder / name).unlink()
        answer = run_cli("export", "--verify", exported)
        assert answer.code == 1 and f"{name}: missing" in answer.complaint
        (tmp_path / "elsewhere").write_bytes(content)
        (folder / name).symlink_to(tmp_path / "elsewhere")
        answer = run_cli("export", "--verify", exported)
        assert answer.code == 1 and f"{name}: a symbolic link" in answer.complaint
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    for code in (b"{", b"[]", b'{"format": "other"}', b"\xff", b"[" * 100_000):
        (folder / "manifest.json").write_bytes(code)
        assert run_cli("export", "--verify", exported).code == 2
    (folder / "manifest.json").unlink()
    assert "not an export" in run_cli("export", "--verify", exported).complaint
    assert "no such folder" in run_cli("export", "--verify", "nowhere").complaint


def test_weights_of_another_network_are_noticed_even_with_their_own_sha256(run_cli, exported):
    folder = Path(exported)
    weights = {key: tensor + 1 for key, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    answer = run_cli("export", "--verify", exported)
    assert answer.code == 1 and "model.safetensors: not as it was written" in answer.complaint
    source = (folder / "network.py").read_text()
    old = manifest["sha256"]["model.safetensors"]
    (folder / "network.py").write_text(source.replace(old, sha256(folder / "model.safetensors")))
    for name in ("model.safetensors", "network.py"):
        manifest["sha256"][name] = sha256(folder / name)
    del manifest["checksum"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    answer = run_cli("export", "--verify", exported)
    assert answer.code == 1 and "network.py: outputs differ" in answer.complaint and "pt2" not in answer.complaint


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/passwd",
        "a/b",
        "huggingface/../x",
        "huggingface/a/b",
        "huggingface/",
        "x" * 300,
        "nul\0l",
        "..",
        ".hidden",
        "manifest.json",
        "",
        "a\nb",
    ],
)
def test_names_stay_in_their_folder(run_cli, exported, name):
    manifest = json.loads((Path(exported) / "manifest.json").read_text())
    manifest["sha256"][name] = "0" * 64
    del manifest["checksum"]
    (Path(exported) / "manifest.json").write_text(json.dumps(manifest))
    answer = run_cli("export", "--verify", exported)
    assert answer.code == 2 and "is not the name of a file in this folder" in answer.complaint
    assert len(answer.complaint) < 400
    with pytest.raises(ValueError, match="is not the name of a file"):
        framework.load(exported)


def test_a_genotype_by_hand_and_from_elsewhere(run_cli, config):
    path = config()
    genotype = {"format": "gumbel-nas/genotype", "version": 1}
    genotype["choices"] = {"layer1.conv": "dilation_1", "layer2.conv": "dilation_8"}
    Path("mine.json").write_text(json.dumps(genotype))
    words = ("--genotype", "mine.json", "--config", path)
    answer = run_cli("export", *words, "--formats", "python,genotype", "--out", "out", "--seed_everything", "5")
    assert answer.code == 0, answer.err
    assert Genotype.load("out/genotype.json").choices == genotype["choices"]
    assert "not trained" in Path("out/README.md").read_text() and "Seed 5" in Path("out/network.py").read_text()
    profile = run_cli("profile", *words, "--json")
    assert profile.code == 0, profile.err
    assert profile.result["choices"] == genotype["choices"]
    assert profile.result["costs"]["params"] == 12 + 48 + 16 + 50  # convolutions, norms, head
    assert run_cli("retrain", *words, "--out", "trained").code == 0
    assert run_cli("export", "--run", "trained", "--formats", "genotype", "--out", "again").code == 0


def test_sizes_of_the_retraining_are_those_of_the_export(run_cli, config):
    path = config({"retrain.space": {"channels": 6}, "retrain.data": {"batch_size": 50}})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    assert run_cli("retrain", "--run", "run").code == 0
    answer = run_cli("export", "--run", "run", "--formats", "safetensors,genotype", "--json")
    assert answer.code == 0 and "outputs bitwise equal" in answer.result["verified"]["safetensors"]["detail"], (
        answer.err
    )
    network = framework.load("run/export")
    assert network[-1].in_features == 6
    assert json.loads(Path("run/export/manifest.json").read_text())["data"]["init_args"]["batch_size"] == 50
    assert framework.create_model("run", num_classes=3)[-1].weight.shape == (3, 6)


def test_loading_leaves_random_state_and_threads_alone(exported):
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    framework.load("run")
    framework.load(exported)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads
    weights = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        weights.append(framework.create_model(exported, pretrained=False)[-1].weight)
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


class Changing(torch.nn.Module):
    """Changes its input in place, and says whether its output is positive."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x):
        x -= 0.5
        y = self.norm(self.linear(x))
        return y, y > 0


def test_norms_of_awkward_networks_are_folded():
    network = Changing().eval()
    network.norm.running_mean.normal_()
    folded, pairs = fold_batch_norms(network, (torch.rand(7, 4),))
    assert pairs == [("linear", "norm")] and isinstance(folded.norm, torch.nn.Identity)
    x = torch.rand(5, 4)
    torch.testing.assert_close(folded(x.clone())[0], network(x.clone())[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "one of the arguments --run --genotype --verify is required"),
        (("--run", "run", "--verify", "run"), "argument --verify: not allowed with argument --run"),
        (("--run", "run", "--formats", "python,jpeg"), "unknown format 'jpeg'"),
        (("--run", "run", "--formats", ","), "name at least one"),
        (("--run", "run", "--config", "tiny.yaml"), "leave out --config"),
        (("--run", "run", "--seed_everything", "1"), "leave out --seed_everything 1"),
        (("--run", "nowhere"), "no such run folder"),
        (("--genotype", "g.json", "--config", "tiny.yaml"), "needs --config FILE and --out DIR"),
        (("--genotype", "g.json", "--out", "o"), "needs --config FILE and --out DIR"),
        (("--verify", "run", "--fold-bn"), "leave out --fold-bn"),
        (("--verify", "run", "--tokenizer", "tokens"), "leave out --tokenizer"),
    ],
)
def test_wrong_usage(run_cli, config, words, message):
    config()
    answer = run_cli("export", *words)
    assert answer.code == 2 and message in answer.complaint


def test_onnx_says_what_is_missing(run_cli, config, monkeypatch):
    monkeypatch.setattr("nas.export.formats.find_spec", lambda name: None)
    answer = run_cli("export", "--run", "run", "--formats", "onnx")
    assert answer.code == 2 and "pip install 'gumbel-nas[onnx]'" in answer.complaint


def test_nothing_is_left_of_an_export_that_fails(run_cli, finished, monkeypatch):
    def fail(folder):
        return {name: {"ok": False, "detail": "outputs differ"} for name in read_manifest(folder)["formats"]}

    monkeypatch.setattr(write, "verify", fail)
    answer = run_cli("export", "--run", finished, "--out", "deep/out")
    assert answer.code == 1 and "python: written, but its check failed: outputs differ" in answer.complaint
    assert os.listdir("deep") == []
    monkeypatch.setattr(write, "verify", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_cli("export", "--run", finished, "--out", "deep/out").code == 130
    assert os.listdir("deep") == []


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_under_its_name(finished, wait_until):
    command = [sys.executable, "-m", "nas", "export", "--run", finished, "--out", "killed/out"]
    for wait in (0.0, 0.5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: os.path.isdir("killed") and os.listdir("killed"), process)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(name.startswith(".out.") for name in os.listdir("killed"))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_batch_norms_are_folded(run_cli, finished):
    answer = run_cli("export", "--run", finished, "--fold-bn", "--out", "folded", "--json")
    assert answer.code == 0, answer.err
    assert run_cli("export", "--run", finished, "--formats", "genotype", "--out", "plain").code == 0
    folded, plain = load_file("folded/examples.safetensors"), load_file("plain/examples.safetensors")
    assert torch.equal(folded["input.0"], plain["input.0"])
    for size in (1, 2, 7):
        torch.testing.assert_close(folded[f"output.{size}.0"], plain[f"output.{size}.0"], rtol=0, atol=1e-5)
    assert "BatchNorm" not in Path("folded/network.py").read_text()
    network = framework.load("folded")
    assert not any("Norm" in type(module).__name__ for module in network.modules())
    torch.testing.assert_close(network(folded["input.0"]), folded["output.7.0"])


def test_folding_is_refused_where_there_is_nothing_to_fold(run_cli, config):
    (Path("mine.py")).write_text(SPACE)
    path = config({"model.space": {"class_path": "mine.Mine"}})
    assert run_cli("search", "--config", path, "--trust-module", "mine", "--out", "run").code == 0
    answer = run_cli("export", "--run", "run", "--trust-module", "mine", "--fold-bn")
    assert answer.code == 1 and "leave out --fold-bn" in answer.complaint


SPACE = '''
import nas
from torch import nn

FACTOR = 0.5


class Scaled(nn.Module):
    """A layer of one's own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return halved(self.inner(x))


def halved(x):
    return x * FACTOR


class Mine(nas.SearchSpace):
    def network(self, stage="search"):
        act = nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh})
        return nn.Sequential(nn.Flatten(), Scaled(nn.Linear(64, 8)), act, nn.Linear(8, 10))
'''


def test_modules_of_ones_own(run_cli, config):
    Path("mine_exported.py").write_text(SPACE)
    path = config({"model.space": {"class_path": "mine_exported.Mine"}})
    trust = ("--trust-module", "mine_exported")
    assert run_cli("search", "--config", path, *trust, "--out", "run").code == 0
    assert "add --trust-module" in run_cli("export", "--run", "run").complaint
    answer = run_cli("export", "--run", "run", *trust, "--json")
    assert answer.code == 0 and answer.result["verified"]["python"]["ok"], answer.err
    source = Path("run/export/network.py").read_text()
    assert "class Scaled(nn.Module):" in source and "def halved(x):" in source and "FACTOR = 0.5" in source
    assert run_cli("export", "--verify", "run/export").code == 0  # needs no trust: no module of one's own is imported
    with pytest.raises(ValueError, match="--trust-module"):
        framework.load("run/export")
    assert framework.load("run/export", trust_modules=["mine_exported"])(torch.rand(2, 1, 64)).shape == (2, 10)


def test_a_model_for_other_classes_and_channels(run_cli, config):
    path = config({**SEARCHES["macro"], "trainer.max_epochs": 1, "model.warmup_epochs": 0})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    assert run_cli("export", "--run", "run", "--formats", "safetensors").code == 0
    old = framework.load("run/export")
    same = framework.create_model("run").eval()
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(same(x), old(x))
    other = framework.create_model("run/export", num_classes=3, in_chans=3).eval()
    assert other(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    stem, wide = old.stem[0].weight, other.stem[0].weight
    torch.testing.assert_close(wide.sum(1, keepdim=True), stem)  # grey in, grey out: activations keep their size
    assert torch.equal(other.layers.layer2.state_dict().popitem()[1], old.layers.layer2.state_dict().popitem()[1])
    fresh = framework.create_model("run/export", pretrained=False)
    assert not torch.equal(fresh.classifier.weight, old.classifier.weight) and fresh.training
    with pytest.raises(ValueError, match="no such run folder"):
        framework.create_model("nowhere")
