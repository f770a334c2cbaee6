"""Multiply-accumulates by closed forms."""

import pytest
import torch
from torch import nn

from nas.costs import num_macs

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
    with pytest.raises(ValueError, match=r"of Linear \(Sequential\.1\) are not counted"):
        num_macs(network, (SEQUENCE,))
