"""The main path on a GPU."""

from functools import partial

import pytest
import torch
from torch import nn

import nas as framework
from nas.relaxations import GumbelSoftmax

CLASSES = ["Softmax", "GumbelSoftmax", "SampledPath", "ReinMax", "GumbelRao", "Dirichlet", "TwoPath"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("bilevel", ["FirstOrder", "Unrolled", "Joint"])
def test_search_retrain_evaluate(run_cli, config, name, bilevel):
    changes = {
        "trainer.accelerator": "gpu",
        "model.relaxation": {"class_path": f"nas.relaxations.{name}"},
        "model.bilevel": {"class_path": f"nas.bilevel.{bilevel}"},
        "model.weight_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}},
        "model.regularizers": [
            {"class_path": "nas.regularizers.Entropy", "init_args": {"weight": -0.1, "at_tau": True}}
        ],
        "model.tau": {
            "class_path": "nas.tau.Reheating",
            "init_args": {"schedule": {"class_path": "nas.tau.LearnedTau"}},
        },
    }
    answer = run_cli("search", "--config", config(changes), "--out", "run", "--json")
    assert answer.code == 0, answer.err
    assert answer.result["device"].startswith("cuda")
    assert run_cli("retrain", "--run", "run").code == 0
    assert run_cli("evaluate", "--run", "run", "--json").result["device"].startswith("cuda")


@pytest.mark.gpu
def test_a_soft_step_does_not_wait_for_the_device():
    network = nn.Sequential(framework.choice("c", {str(k): partial(nn.Linear, 8, 8) for k in range(3)}))
    supernet, x = framework.Supernet(network).cuda(), torch.randn(4, 8, device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)

    def step():
        supernet(x, op_weights=supernet.sample(GumbelSoftmax(), 1.0, generator=generator)).square().sum().backward()

    step()  # start-up may synchronise
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
