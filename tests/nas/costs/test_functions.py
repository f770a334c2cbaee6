"""Multiply-accumulates by closed forms, and beside another counter."""

import time

import pytest
import torch
from ptflops import get_model_complexity_info
from torch import nn
from torchvision.models import resnet18

from nas import SearchSpace, choice
from nas.costs import latency_ms, num_macs
from nas.testing import check_search_space

B, L, D, H = 3, 8, 32, 16
SEQUENCE, IMAGE = torch.randn(B, L, D), torch.randn(B, 4, 10, 10)
RECURRENT = D * H + H * H
FORMS = {
    "attention of one head": (lambda: nn.MultiheadAttention(D, 1, batch_first=True), 3, 4 * D * D * L + 2 * L * L * D),
    "attention of two": (lambda: nn.MultiheadAttention(D, 2, batch_first=True), 3, 4 * D * D * L + 2 * L * L * D),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(D, 4, 64, batch_first=True),
        1,
        4 * D * D * L + 2 * L * L * D + 2 * D * 64 * L,
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(D, 4, 64, batch_first=True),
        2,
        2 * (4 * D * D * L + 2 * L * L * D) + 2 * D * 64 * L,
    ),
    "rnn": (lambda: nn.RNN(D, H, batch_first=True), 1, L * RECURRENT),
    "gru": (lambda: nn.GRU(D, H, batch_first=True), 1, 3 * L * RECURRENT),
    "lstm": (lambda: nn.LSTM(D, H, batch_first=True), 1, 4 * L * RECURRENT),
    "lstm both ways, twice": (
        lambda: nn.LSTM(D, H, num_layers=2, bidirectional=True, batch_first=True),
        1,
        2 * 4 * L * (RECURRENT + 2 * H * H + H * H),
    ),
    "lstm projected": (lambda: nn.LSTM(D, H, proj_size=4, batch_first=True), 1, L * (4 * H * (D + 4) + H * 4)),
    "linear": (lambda: nn.Linear(D, 5), 1, L * D * 5),
    "bilinear": (lambda: nn.Bilinear(D, D, 5), 2, L * D * D * 5),
    "convolution": (lambda: nn.Conv1d(L, 6, 3, groups=2), 1, (D - 2) * 3 * L // 2 * 6),
    "transposed": (lambda: nn.ConvTranspose1d(L, 6, 3), 1, D * 3 * L * 6),
    "norms, embeddings": (lambda: nn.Sequential(nn.LayerNorm(D), nn.PReLU()), 1, 0),
}


@pytest.mark.parametrize("name", FORMS)
def test_layers_with_parameters_by_their_closed_forms(name):
    make, num_inputs, expected = FORMS[name]
    assert num_macs(make(), (SEQUENCE,) * num_inputs) == expected


def test_products_of_attention_are_counted_wherever_they_are():
    class Attends(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert num_macs(Attends(), (SEQUENCE[:, None],)) == 2 * L * L * D


def test_a_layer_that_counts_nothing_is_named():
    network = nn.Sequential(nn.Linear(D, D), nn.Linear(D, D))
    network[1].forward = lambda x: x  # as a kernel that the counter does not know would be
    with pytest.raises(ValueError, match=r"of Linear \(Sequential\.1\) cannot be counted"):
        num_macs(network, (SEQUENCE,))


OTHERS = {
    "linear": (lambda: nn.Linear(D, 5, bias=False), SEQUENCE),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), IMAGE),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, bias=False), IMAGE),
    "rnn": (lambda: nn.RNN(D, H, bias=False, batch_first=True), SEQUENCE),
    "gru": (lambda: nn.GRU(D, H, bias=False, batch_first=True), SEQUENCE),
    "lstm": (lambda: nn.LSTM(D, H, bias=False, batch_first=True, proj_size=4), SEQUENCE),
    "attention": (lambda: Attends(nn.MultiheadAttention(D, 2, bias=False, batch_first=True)), SEQUENCE),
    "network": (lambda: unbiased(resnet18()), torch.randn(B, 3, 64, 64)),
}


class Attends(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x)[0]


def unbiased(network):
    network.fc.bias = None
    return network


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_another_counter_says_the_same(name):
    """Of layers without biases, which ptflops counts and we do not."""
    make, inputs = OTHERS[name]
    network = make()
    theirs, _ = get_model_complexity_info(
        network, tuple(inputs.shape[1:]), as_strings=False, print_per_layer_stat=False, backend="aten"
    )
    assert num_macs(network, (inputs,)) == theirs > 0


def test_the_latency_is_the_time_of_a_call_in_milliseconds():
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.004)
            return x

    assert 4 <= latency_ms(Slow(), [SEQUENCE], min_seconds=0.01) < 400  # a sleep is never shorter; a busy machine


def test_a_search_space_with_a_layer_that_counts_nothing_is_refused():
    class Uncounted(nn.Linear):
        def forward(self, x):
            return x

    Uncounted.__module__ = "torch.nn.modules.linear"

    class Space(SearchSpace):
        def network(self, stage="search"):
            return nn.Sequential(nn.Flatten(), choice("op", {"a": nn.Identity, "b": lambda: Uncounted(4, 4)}))

    with pytest.raises(AssertionError, match="cannot be counted"):
        check_search_space(Space(), (torch.randn(2, 4),))
