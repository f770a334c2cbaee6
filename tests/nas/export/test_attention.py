"""Fused attention: found in networks, and what it lets pt2 differ by."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nas as framework
from nas.export.attention import fused_attention
from nas.export.formats import WRITERS


class Own(nn.Module):
    """Attention of one's own."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 8)

    def forward(self, x):
        x = self.project(x)
        return self.attend(x)

    def attend(self, x):
        x = x.unsqueeze(1)  # one head; torch.onnx knows four dimensions only
        return F.scaled_dot_product_attention(x, x, x).squeeze(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.blocks = nn.Sequential(Own(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.blocks(self.encode(self.embed(x))).mean(1))


LAYERS = ["encode", "encode.self_attn", "blocks.0"]


def tokens():
    return torch.randint(0, 20, (4, 7))


def test_layers_of_fused_attention_are_found():
    network = Net().eval()
    assert fused_attention(network, (tokens(),)) == LAYERS
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert fused_attention(Own().eval(), (torch.rand(2, 3, 8),)) == [""]
    assert fused_attention(nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1)).eval(), (torch.rand(2, 8),)) == []


@pytest.fixture
def attending(tmp_path, interpreter, monkeypatch):
    """Exports a network with attention, whose pt2 file is said to differ by a part of the largest output; the head makes outputs small."""

    def make(part):
        monkeypatch.setitem(WRITERS, "pt2", lambda subject, folder: (folder / "model.pt2").write_text("a graph"))
        interpreter({"pt2": lambda x: x + part * x.abs().max()})
        network = Net()
        with torch.no_grad():
            network.head.weight.mul_(1e-3)
            network.head.bias.zero_()
        return framework.export_network(network, tokens(), tmp_path / "out", formats=("safetensors", "pt2"))

    return make


def test_pt2_may_differ_by_a_millionth_of_the_largest_output(attending, tmp_path, run_cli):
    report = attending(7e-7)
    assert report["pt2"]["ok"] and report["pt2"]["max_abs_diff"] > 0
    assert "at most 1e-06 of the largest output allowed, for fused attention in encode, " in report["pt2"]["detail"]
    folder = tmp_path / "out"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["pt2_tolerance"] == {"relative_to_largest_output": 1e-6, "layers": LAYERS}
    assert "for fused attention in 3 layers that manifest.json names" in (folder / "README.md").read_text()
    assert run_cli("export", "--verify", folder).code == 0
    changed(folder, lambda content: content.pop("pt2_tolerance"))
    answer = run_cli("export", "--verify", folder)
    assert answer.code == 1 and "bitwise equal expected" in answer.complaint


def test_but_by_no_more(attending, tmp_path):
    report = attending(2e-6)
    assert not report["pt2"]["ok"] and "at most 1e-06 of the largest output allowed" in report["pt2"]["detail"]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["formats"] == ["safetensors"] and "pt2_tolerance" not in manifest
    assert "fused attention" not in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    "stated",
    [
        None,
        1e-6,
        {},
        {"relative_to_largest_output": 1.0, "layers": ["encode"]},
        {"relative_to_largest_output": -1e-7, "layers": ["encode"]},
        {"relative_to_largest_output": float("nan"), "layers": ["encode"]},
        {"relative_to_largest_output": True, "layers": ["encode"]},
        {"relative_to_largest_output": 1e-6, "layers": []},
        {"relative_to_largest_output": 1e-6, "layers": [1]},
        {"relative_to_largest_output": 1e-6, "layers": "encode"},
    ],
)
def test_a_manifest_cannot_allow_more(run_cli, exported, stated):
    changed(Path(exported), lambda content: content.update(pt2_tolerance=stated))
    answer = run_cli("export", "--verify", exported)
    assert answer.code == 2 and re.search("pt2_tolerance|NaN is not a JSON number", answer.complaint)


def changed(folder, change):
    """Rewrites a manifest, as someone would who changes files by hand."""
    content = json.loads((folder / "manifest.json").read_text())
    del content["checksum"]
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


class Computed(nn.Module):
    """Attention, and weights that something computes."""

    def __init__(self):
        super().__init__()
        self.net = Net()
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
        nn.utils.parametrizations.orthogonal(self.net.encode.linear1)

    def forward(self, x):
        return self.last(self.net(x))


@pytest.mark.slow
@pytest.mark.parametrize("make", [Net, Computed])
def test_every_format_holds_a_transformer(make, run_cli, tmp_path):
    torch.manual_seed(0)
    network, x = make().eval(), tokens()
    formats = ("python", "safetensors", "pt2", "onnx")
    report = framework.export_network(network, x, tmp_path / "out", formats=formats)
    assert set(report) == {"files", *formats} and all(row["ok"] for row in report.values())
    assert report["python"]["max_abs_diff"] == 0
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    with torch.no_grad():
        expected = network(x)
        assert (program(x) - expected).abs().max() <= 2e-6 * expected.abs().max()  # of pt2, and of plain weights
    assert run_cli("export", "--verify", tmp_path / "out").code == 0
