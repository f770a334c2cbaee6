"""Formats that cannot hold a network: the others are written, and the as_usage_error said."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import nas as framework
from nas.export import formats, write
from nas.export.formats import WRITERS


@pytest.fixture
def fails(monkeypatch):
    """Makes a format's writer begin its file and fail."""

    def make(name, file, error):
        def writer(subject, folder):
            (folder / file).write_text("half")
            raise error

        monkeypatch.setitem(WRITERS, name, writer)

    return make


def same(x):
    return x.clone()


def test_a_network_that_source_cannot_hold_is_written_in_the_other_formats(tmp_path):
    network = nn.Sequential(nn.Linear(4, 2))
    network[0].register_forward_hook(lambda module, args, output: output * 2)
    report = framework.export_network(network, torch.rand(3, 4), tmp_path / "out", formats=("python", "safetensors"))
    assert not report["python"]["ok"] and "refused: module '0' (Linear): it has hooks" in report["python"]["detail"]
    assert report["safetensors"]["ok"] and report["files"]["ok"]
    files = {"README.md", "config.json", "examples.safetensors", "manifest.json", "model.safetensors"}
    assert set(os.listdir(tmp_path / "out")) == files
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["formats"] == ["safetensors"] and "it has hooks" in manifest["refused"]["python"]
    assert "network.py" not in (tmp_path / "out/README.md").read_text().partition("## Checking")[0]


def test_the_command_says_what_refused(run_cli, finished, fails):
    fails(
        "pt2",
        "model.pt2",
        RuntimeError(f"no graph of\n{os.getcwd()}/secret/net.py, see https://pytorch.org/docs/x " + "y" * 500),
    )
    words = ("export", "--run", finished, "--formats", "genotype,safetensors,pt2", "--out")
    answer = run_cli(*words, "first", "--json")
    assert answer.code == 0
    assert answer.result["formats"] == ["genotype", "safetensors"]
    assert set(answer.result["verified"]) == {"files", "genotype", "safetensors"}
    why = answer.result["refused"]["pt2"]
    assert why.startswith("no graph of net.py, see https://pytorch.org/docs/x yyy") and len(why) == 300
    assert json.loads(Path("first/manifest.json").read_text())["refused"] == {"pt2": why}
    assert not Path("first/model.pt2").exists()
    assert run_cli("export", "--verify", "first").code == 0
    lines = run_cli(*words, "second").out.splitlines()
    assert f"pt2: refused: {why}" in lines and lines[-1] == "export folder: second"


def test_nothing_is_left_where_every_format_refuses(run_cli, finished, fails, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: True)
    fails("onnx", "model.onnx", TypeError("no such operation"))
    fails("pt2", "model.pt2", RuntimeError("no graph"))
    answer = run_cli("export", "--run", finished, "--formats", "onnx", "--out", "deep/out")
    assert answer.code == 1 and "onnx: TypeError: no such operation" in answer.complaint
    answer = run_cli("export", "--run", finished, "--formats", "onnx,pt2", "--out", "deep/out", "--json")
    assert answer.code == 1 and "onnx: TypeError: no such operation; pt2: no graph" in answer.complaint
    assert os.listdir("deep") == []


def test_the_reason_is_what_onnx_failed_of(run_cli, finished, fails, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: True)
    error = torch.onnx.OnnxExporterError("\x1b[96mThis is step 3/3\x1b[0m of many")
    error.__cause__ = NotImplementedError("only \x1b[96m4D\x1b[0m queries")
    fails("onnx", "model.onnx", error)
    answer = run_cli("export", "--run", finished, "--formats", "onnx,genotype", "--out", "out", "--json")
    assert answer.code == 0 and answer.result["refused"] == {"onnx": "only 4D queries"}


def test_a_full_disk_is_no_refusal(run_cli, finished, fails):
    fails("pt2", "model.pt2", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    answer = run_cli("export", "--run", finished, "--formats", "genotype,pt2", "--out", "deep/out")
    assert answer.code == 1 and "No space left" in answer.complaint
    assert os.listdir("deep") == []


@pytest.mark.parametrize(
    ("pt2", "why"),
    [
        (lambda x: x * (1 + 5e-7), "outputs differ by at most .* (bitwise equal expected)"),
        (None, "Segmentation fault"),
    ],
)
def test_a_format_that_does_not_hold_is_dropped(run_cli, finished, interpreter, monkeypatch, pt2, why):
    monkeypatch.setitem(WRITERS, "pt2", lambda subject, folder: (folder / "model.pt2").write_text("a graph"))
    interpreter({"python": same, "pt2": pt2})
    answer = run_cli("export", "--run", finished, "--out", "out", "--json")
    assert answer.code == 0 and answer.result["formats"] == ["genotype", "python", "safetensors"]
    begin, _, end = why.partition(".*")
    assert begin in answer.result["refused"]["pt2"] and end in answer.result["refused"]["pt2"]
    assert answer.result["refused"]["pt2"].startswith("written, but its check failed: ")
    assert all(row["ok"] for row in answer.result["verified"].values())
    assert not Path("out/model.pt2").exists() and "model.pt2" not in Path("out/README.md").read_text()
    assert run_cli("export", "--verify", "out").code == 0


def test_weights_stay_as_long_as_a_format_needs_them(run_cli, finished, interpreter):
    interpreter({"python": lambda x: x + 1})
    words = ("export", "--run", finished, "--formats")
    assert run_cli(*words, "python,safetensors", "--out", "first").code == 0
    assert Path("first/model.safetensors").exists() and not Path("first/network.py").exists()
    assert run_cli(*words, "python,genotype", "--out", "second").code == 0
    assert not Path("second/model.safetensors").exists() and not Path("second/network.py").exists()


def test_a_network_that_load_cannot_build_is_no_safetensors_export(run_cli, finished, interpreter, monkeypatch):
    interpreter({"python": same})

    def refuse(*_, **__):
        raise RuntimeError("another version of the space")

    monkeypatch.setattr("nas.runs.stages.export.load", refuse)
    answer = run_cli("export", "--run", finished, "--formats", "python,safetensors", "--out", "out", "--json")
    assert answer.code == 0 and answer.result["formats"] == ["python"]
    assert "nas.load cannot build the network: another version" in answer.result["refused"]["safetensors"]
    assert not Path("out/config.json").exists()


def test_a_damaged_folder_is_not_kept(run_cli, finished, monkeypatch):
    monkeypatch.setattr(write, "verify", lambda folder: {"files": {"ok": False, "detail": "network.py: missing"}})
    answer = run_cli("export", "--run", finished, "--formats", "genotype", "--out", "deep/out")
    assert answer.code == 1 and "failed its check" in answer.complaint and "network.py: missing" in answer.complaint
    assert os.listdir("deep") == []
