"""The derived network in a run folder: the weights that the checkpoint gives, and no data to read them."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nas
from nas.data import SequentialDigits
from search_spaces.dilation import DilationNet1d


@pytest.fixture
def run(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def change_genotype(run):
    path = run / "genotype.json"
    content = json.loads(path.read_text())
    name, label = next(iter(content["choices"].items()))
    content["choices"][name] = next(other for other in content["probabilities"][name] if other != label)
    path.write_text(json.dumps(content))
    return content["choices"]


def test_the_kept_network_is_the_one_derived_from_the_checkpoint(run):
    kept = nas.load("run")
    (run / "derived.safetensors").unlink()
    with pytest.warns(UserWarning, match="no derived.safetensors; the network is derived from the checkpoint"):
        derived = nas.load("run")
    assert not kept.training and kept.state_dict().keys() == derived.state_dict().keys()
    for key, value in kept.state_dict().items():
        torch.testing.assert_close(
            value, derived.state_dict()[key]
        )  # statistics of a pass over the data, averaged again


def test_neither_data_nor_the_module_of_the_data_is_needed(run, run_cli, monkeypatch):
    expected = nas.load("run").state_dict()
    outputs = nas.create_model("run", num_classes=3)

    def unreadable(self, *args, **options):
        raise AssertionError("data were made")

    monkeypatch.setattr(SequentialDigits, "__init__", unreadable)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": "not_here.MyData"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for key, value in nas.load("run").state_dict().items():
        assert torch.equal(value, expected[key])
    assert outputs.state_dict().keys() == expected.keys()


def test_evaluating_reads_the_kept_weights(run, run_cli):
    before = run_cli("evaluate", "--run", "run", "--json").result
    state = {key: torch.zeros_like(value) for key, value in load_file(run / "derived.safetensors").items()}
    save_file(state, run / "derived.safetensors", metadata_of(run / "derived.safetensors"))
    after = run_cli("evaluate", "--run", "run", "--json").result
    assert before["network"] == after["network"] == "derived, inherited weights"
    assert after["test_loss"] == pytest.approx(2.302585, abs=1e-5)  # ln 10: all outputs are 0
    assert before["test_loss"] != pytest.approx(2.302585, abs=1e-3)


def test_a_changed_genotype_is_derived_anew_and_said(run):
    choices = change_genotype(run)
    with pytest.warns(UserWarning, match="derived.safetensors: of another genotype than genotype.json"):
        network = nas.load("run")
    config = yaml.safe_load((run / "config.yaml").read_text())["model"]["space"]
    with nas.architecture(choices):
        fresh = DilationNet1d(**config["init_args"]).network()
    assert config["class_path"].endswith("DilationNet1d")
    shapes = {key: value.shape for key, value in fresh.state_dict().items()}
    assert {key: value.shape for key, value in network.state_dict().items()} == shapes


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {**state, "more": torch.zeros(1)}, 'weights do not fit the network.*"more"'),
        (
            lambda state: {k: v for k, v in state.items() if not k.endswith("weight")},
            "weights do not fit the network.*Missing key",
        ),
        (lambda state: {key: value[..., None] for key, value in state.items()}, "weights do not fit the network.*size"),
    ],
)
def test_weights_of_another_network_are_refused(run, change, message):
    path = run / "derived.safetensors"
    save_file(change(load_file(path)), path, metadata_of(path))
    with pytest.raises(ValueError, match=message) as caught:
        nas.load("run")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_damaged_file_is_refused(run, content):
    (run / "derived.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"derived\.safetensors: "):
        nas.load("run")
