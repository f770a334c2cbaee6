import pytest
import torch

import nas
from nas.costs import num_macs, num_params
from nas.testing import check_search_space
from search_spaces.tabular import TabularMLP

NAMES = ["age", "height", "weight", "pulse", "x.1"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"feature_gates": False},
        {"widths": [8]},
        {"widths": [8], "batch_norm": True, "dropout": 0.2, "feature_names": NAMES},
        {"feature_gates": False, "widths": [8], "depths": [2], "batch_norm": True},
        {"feature_gates": False, "widths": [8], "activations": ["tanh"], "depths": [0, 3]},
    ],
)
def test_space_keeps_the_rules(arguments):
    check_search_space(TabularMLP(5, 3, **arguments), [torch.randn(4, 5)])


def test_space_with_gates_and_widths_keeps_the_rules():
    check_search_space(TabularMLP(5, 3), [torch.randn(4, 5)])


def test_number_of_architectures():
    space = TabularMLP(5, 3)
    supernet = nas.Supernet(space.network())
    assert supernet.num_architectures == (2**5 - 1) * 3 * 4 * (1 + 4 + 4**2)
    assert list(supernet.choices) == [
        *(f"features.{i}" for i in range(5)),
        "width",
        "first.activation",
        "depth",
        "block1.activation",
        "block2.activation",
    ]
    fixed = TabularMLP(5, 3, feature_gates=False, widths=[8], depths=[2], activations=["relu", "gelu"])
    assert nas.Supernet(fixed.network()).num_architectures == 2**3


def test_counts_agree_with_arithmetic():
    space = TabularMLP(5, 3, batch_norm=True, feature_names=NAMES)
    features = {f"features.{name}": "keep" if name in ("age", "pulse") else "drop" for name in NAMES}
    activations = {"first.activation": "gelu", "block1.activation": "tanh", "block2.activation": "silu"}
    with nas.architecture({**features, **activations, "width": "32", "depth": "2"}):
        net = space.network()
    assert num_params(net) == (2 * 32 + 32) + 2 * (32 * 32 + 32) + 3 * 2 * 32 + (32 * 3 + 3)
    assert num_macs(net, [torch.zeros(4, 5)]) == 2 * 32 + 2 * 32 * 32 + 32 * 3
    assert num_params(
        TabularMLP(5, 3, feature_gates=False, widths=[8], depths=[0], activations=["relu"]).network()
    ) == (5 * 8 + 8 + 8 * 3 + 3)


def test_network_computes_what_one_written_by_hand_does():
    space = TabularMLP(5, 3, widths=[4, 8], batch_norm=True, dropout=0.5, feature_names=NAMES)
    features = dict(zip([f"features.{name}" for name in NAMES], ["keep", "drop", "keep", "keep", "drop"], strict=True))
    choices = {**features, "width": "4", "depth": "1", "first.activation": "silu", "block1.activation": "tanh"}
    with nas.architecture(choices):
        net = space.network("retrain").double().eval()
    w, x = net.state_dict(), torch.randn(6, 5, dtype=torch.float64)
    eps = 1 / (1 + 1e-5) ** 0.5  # a fresh batch norm
    h = (x[:, [0, 2, 3]] @ w["first.linear.1.weight"].T + w["first.linear.1.bias"]) * eps
    h = h * h.sigmoid()
    h = ((h @ w["blocks.0.linear.weight"].T + w["blocks.0.linear.bias"]) * eps).tanh()
    torch.testing.assert_close(net(x), h @ w["head.weight"].T + w["head.bias"], rtol=1e-12, atol=1e-12)  # float64


def test_every_choice_gets_a_gradient():
    supernet = nas.Supernet(TabularMLP(5, 3).network())
    torch.nn.init.normal_(supernet.alpha, generator=torch.Generator().manual_seed(0))
    weights = supernet.alpha.masked_fill(~supernet.mask, float("-inf")).softmax(-1)
    supernet(torch.randn(8, 5), op_weights=nas.OpWeights(weights, None)).square().mean().backward()
    touched = supernet.alpha.grad.abs().sum(-1) > 0
    assert touched.all(), [name for name, ok in zip(supernet.choices, touched, strict=True) if not ok]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0}, "num_features must be at least 1, got 0"),
        ({"num_outputs": 0}, "num_outputs must be at least 1, got 0"),
        ({"widths": [8, 0]}, r"widths must be different and at least 1, got \[8, 0\]"),
        ({"widths": [8, 8]}, r"widths must be different and at least 1, got \[8, 8\]"),
        ({"widths": []}, r"widths must be at least one, all different, got \[\]"),
        ({"depths": []}, r"depths must be at least one, all different, got \[\]"),
        ({"depths": [1, 1]}, r"depths must be at least one, all different, got \[1, 1\]"),
        ({"depths": [1, -1]}, r"depths must be at least 0, got \[1, -1\]"),
        ({"activations": []}, r"activations must be at least one, all different, got \[\]"),
        ({"activations": ["relu", "elu"]}, "activations must be among relu, gelu, tanh, silu, got 'elu'"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, got 1.0"),
        ({"feature_names": ["a", "b"]}, "feature_names must be 5 different names, got 2, 2 different"),
        ({"feature_names": ["a"] * 5}, "feature_names must be 5 different names, got 5, 1 different"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^TabularMLP: {message}$"):
        TabularMLP(**{"num_features": 5, "num_outputs": 3} | arguments)
