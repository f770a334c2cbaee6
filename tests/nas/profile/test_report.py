"""nas profile from the command line."""

import pytest
import torch

import nas as framework
from nas.costs import count_macs, num_params
from nas.supernet.building import architecture
from search_spaces.dilation import DilationNet1d

ARGUMENTS = {"num_layers": 2, "channels": 4, "dilations": [1, 8], "kernel_sizes": [3, 5]}
CHANGES = {"model.space": {"class_path": "search_spaces.dilation.DilationNet1d", "init_args": ARGUMENTS}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def built(choices):
    with architecture(choices):
        return DilationNet1d(**ARGUMENTS).network()


def test_profile(run_cli, config):
    answer = run_cli("profile", "--config", config(CHANGES), "--json")
    assert answer.code == 0, answer.err
    result = answer.result
    assert result["num_architectures"] == 16
    labels = framework.Supernet(DilationNet1d(**ARGUMENTS).network()).choices
    rows = {(row["choice"], row["candidate"]): row for row in result["candidates"]}
    assert list(rows) == [(name, label) for name, row in labels.items() for label in row]
    assert rows["layer2.conv", "kernel_5_dilation_8"]["shape"] == [1, 4, 64]
    assert rows["layer2.conv", "kernel_5_dilation_8"]["params"] == 4 * 4 * 5
    assert rows["layer2.conv", "kernel_5_dilation_8"]["macs"] == 4 * 4 * 5 * 64
    small = {name: "kernel_3_dilation_1" for name in labels}
    large = {name: "kernel_5_dilation_8" for name in labels}
    x = torch.randn(1, 1, 64)
    for name, cost in (("params", num_params), ("macs", count_macs)):
        row = result["costs"][name]
        assert (row["smallest"], row["largest"]) == (cost(built(small), [x]), cost(built(large), [x]))
        # half the layers are small on average; 1,000 draws: the mean's standard deviation is std / 32
        assert row["mean"] == pytest.approx((row["smallest"] + row["largest"]) / 2, abs=4 * row["std"] / 31)
    assert result["costs"]["latency_ms"]["smallest"] > 0
    assert result["memory"]["fits"] and result["memory"]["mode"] == "soft"
    assert result["targets"] == {}


def test_profile_for_people(run_cli, config):
    targets = {"macs": {"max": 1e9}, "params": {"max": 10}}
    answer = run_cli("profile", "--config", config({**CHANGES, "model.cost": targets}))
    assert answer.code == 0, answer.err
    assert "target macs: at most 1,000,000,000, the smallest is " in answer.out and ", can be met" in answer.out
    smallest = num_params(built({"layer1.conv": "kernel_3_dilation_1", "layer2.conv": "kernel_3_dilation_1"}))
    assert f"target params: at most 10, the smallest is {smallest}, cannot be met" in answer.out
    assert "architectures: 16" in answer.out


def test_latency_adds_up_roughly(run_cli, config):
    """The additive model is a model: the mean over architectures lies between the extremes, and the table is positive everywhere."""
    result = run_cli("profile", "--config", config(CHANGES), "--json").result
    row = result["costs"]["latency_ms"]
    assert row["smallest"] <= row["mean"] <= row["largest"]
    assert all(candidate["latency_ms"] > 0 for candidate in result["candidates"])


def test_bad_input(run_cli, config):
    assert "required: --config" in run_cli("profile").complaint
    answer = run_cli("profile", "--config", config({"model.cost": {"nothing": {"max": 1}}}))
    assert answer.code == 2 and "unknown cost 'nothing'" in answer.complaint
