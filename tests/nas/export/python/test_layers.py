"""Calls of torch's constructors, read from layers."""

import pytest
import torch
from torch import nn

from nas.export.python.code import unparsed
from nas.export.python.layers import constructor, shortened

LAYERS = {
    "nn.Conv2d(16, 16, 3, padding=1, bias=False)": nn.Conv2d(16, 16, 3, 1, 1, bias=False),
    'nn.Conv1d(3, 4, 5, padding="same", padding_mode="circular")': nn.Conv1d(
        3, 4, 5, padding="same", padding_mode="circular"
    ),
    "nn.Conv2d(2, 4, (3, 1), stride=(1, 2), groups=2)": nn.Conv2d(2, 4, (3, 1), (1, 2), groups=2),
    "nn.ConvTranspose2d(3, 4, 2, stride=2)": nn.ConvTranspose2d(3, 4, 2, 2),
    "nn.BatchNorm2d(3)": nn.BatchNorm2d(3),
    "nn.BatchNorm1d(3, eps=0.001, affine=False)": nn.BatchNorm1d(3, 1e-3, affine=False),
    "nn.BatchNorm2d(3, momentum=None, track_running_stats=False)": nn.BatchNorm2d(
        3, momentum=None, track_running_stats=False
    ),
    "nn.GroupNorm(2, 8)": nn.GroupNorm(2, 8),
    "nn.LayerNorm((4, 8), elementwise_affine=False)": nn.LayerNorm((4, 8), elementwise_affine=False),
    "nn.LayerNorm(8, bias=False)": nn.LayerNorm(8, bias=False),
    "nn.RMSNorm(8)": nn.RMSNorm(8),
    "nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "nn.MaxPool2d(2, ceil_mode=True)": nn.MaxPool2d(2, ceil_mode=True),
    "nn.AdaptiveAvgPool2d((None, 3))": nn.AdaptiveAvgPool2d((None, 3)),
    "nn.Linear(3, 4)": nn.Linear(3, 4),
    "nn.Linear(3, 4, bias=False, dtype=torch.float64)": nn.Linear(3, 4, bias=False, dtype=torch.float64),
    "nn.Dropout(0.3)": nn.Dropout(0.3),
    "nn.ReLU(inplace=True)": nn.ReLU(True),
    'nn.GELU("tanh")': nn.GELU("tanh"),
    "nn.PReLU(3)": nn.PReLU(3),
    "nn.LSTM(3, 4, num_layers=2, batch_first=True)": nn.LSTM(3, 4, 2, batch_first=True),
    "nn.GRU(3, 4, bidirectional=True)": nn.GRU(3, 4, bidirectional=True),
    'nn.RNN(3, 4, nonlinearity="relu")': nn.RNN(3, 4, nonlinearity="relu"),
    "nn.MultiheadAttention(8, 2, batch_first=True)": nn.MultiheadAttention(8, 2, batch_first=True),
    'nn.TransformerEncoderLayer(8, 2, activation="gelu", norm_first=True)': nn.TransformerEncoderLayer(
        8, 2, activation="gelu", norm_first=True
    ),
    "nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, batch_first=True), 3)": nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, batch_first=True), 3
    ),
    "nn.Embedding(10, 3, padding_idx=0)": nn.Embedding(10, 3, 0),
    "nn.Flatten(2)": nn.Flatten(2),
    "nn.Unflatten(1, (2, 2))": nn.Unflatten(1, (2, 2)),
    "nn.Upsample(scale_factor=2.0)": nn.Upsample(scale_factor=2),
    "nn.ChannelShuffle(4)": nn.ChannelShuffle(4),
    "nn.Identity()": nn.Identity(),
}


@pytest.mark.parametrize("written", LAYERS)
def test_constructors_are_what_a_person_would_write(written):
    layer = LAYERS[written]
    assert unparsed(shortened(constructor(layer, type(layer)))) == written
    copy = eval(written, {"nn": nn, "torch": torch})
    assert repr(copy) == repr(layer)
    mine = {key: (value.shape, value.dtype) for key, value in layer.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in copy.state_dict().items()} == mine
