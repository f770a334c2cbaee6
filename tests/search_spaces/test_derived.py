"""Every shipped space: a derived network computes what its one-hot supernet computes, after a step of training."""

from typing import Any

import pytest
import torch

import nas
from nas.derive.check import check_derived
from nas.supernet.structure import random_choices
from search_spaces.darts import Darts
from search_spaces.dilation import DilationNet1d, DilationNet2d, DilationSegmenter2d
from search_spaces.macro import MacroNet
from search_spaces.mobile import MobileNet
from search_spaces.nasbench201 import NASBench201
from search_spaces.tabular import TabularMLP

DARTS: dict[str, Any] = {"search_channels": 4, "search_layers": 3, "channels": 4, "layers": 3, "auxiliary": False}
MOBILE: dict[str, Any] = {
    "stages": ((8, 2, 2), (16, 2, 2)),
    "squeeze_excite": (False, True),
    "stem_channels": 8,
    "first_channels": 8,
}
MOBILE |= {"head_channels": 16, "num_classes": 10}
SPACES = {
    "dilation 1d": (lambda: DilationNet1d(num_layers=3, channels=8, dilations=[1, 2, 4, 8]), (1, 64)),
    "dilation 1d, own norms": (
        lambda: DilationNet1d(num_layers=2, channels=8, dilations=[1, 8], candidate_norms=True),
        (1, 64),
    ),
    "dilation 2d": (lambda: DilationNet2d(num_layers=2, channels=4, dilations=[1, 2], in_channels=3), (3, 12, 12)),
    "segmenter": (lambda: DilationSegmenter2d(2, 4, (1, 2), num_classes=3), (1, 8, 24)),
    "nas-bench-201": (lambda: NASBench201(channels=4, cells_per_stage=1, num_classes=10, in_channels=3), (3, 16, 16)),
    "darts": (lambda: Darts(**DARTS, num_nodes=3), (3, 16, 16)),
    "macro": (lambda: MacroNet(channels=4, stages=(1, 2)), (3, 16, 16)),
    "mobile": (lambda: MobileNet(**MOBILE), (3, 32, 32)),
    "tabular": (lambda: TabularMLP(12, 3, widths=[4, 8], batch_norm=True), (12,)),
}


SLOW = ("darts", "macro", "mobile", "nas-bench-201")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SPACES]
)
def test_a_derived_network_is_what_was_searched(name):
    make, shape = SPACES[name]
    torch.manual_seed(0)
    supernet = nas.Supernet(make().network("search")).train()
    inputs = torch.randn(4, *shape)
    output = supernet(
        inputs, op_weights=supernet.every_candidate()
    )  # statistics of batch norms are others than at first
    assert torch.isfinite(output[0] if isinstance(output, tuple) else output).all()
    for seed in range(20):
        check_derived(supernet, random_choices(supernet.network, seed), (inputs,))
