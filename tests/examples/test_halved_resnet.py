"""The tutorial of a ResNet with half of the MACs, with short training."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import nas

FOLDER = Path(__file__).parents[2] / "examples" / "halved_resnet"


def macs(network):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() // 2


@pytest.mark.slow
def test_one_call_halves_the_macs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    own = importlib.import_module("digits_resnet")
    torch.manual_seed(0)
    network = own.build()
    own.train(network, num_steps=2)
    torch.save(network.state_dict(), "resnet.pt")
    (x, y), (tested, _) = own.digits()
    assert x.shape == (1200, 3, 32, 32) and len(tested) == 597 and set(y.tolist()) == set(range(10))
    Path("short.yaml").write_text("{trainer: {max_epochs: 1, limit_train_batches: 4, accelerator: cpu}}")
    run = nas.compress(
        own.build, weights="resnet.pt", data=own.digits, limit={"macs": 0.5}, epochs=1, config="short.yaml", out="half"
    )
    assert macs(run.network()) <= 0.5 * macs(network)
    assert "What was cut" in Path("half/report.html").read_text()
