"""The pieces that Python files are made of: expressions, constructor calls, folded branches."""

import math
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nas.export.python.constructors import constructor
from nas.export.python.expressions import WIDTH, Argument, Call, is_literal, items, literal, literal_text, text
from nas.export.python.source import PRESENT, fold

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def same(a, b):
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    return type(a) is type(b) and a == b


@given(PLAIN)
def test_a_plain_value_comes_out_of_its_text_as_it_was(value):
    assert is_literal(value)
    written = literal_text(value)
    assert written.isascii() and "\n" not in written
    assert same(value, eval(written, {"float": float}))


@given(PLAIN, st.integers(0, 6))
def test_a_broken_line_means_the_same(value, indent):
    call = Call("f", (Argument("", literal(value), positional=True), Argument("key", literal(value))))
    args, kwargs = eval(text(call, indent=indent), {"float": float, "f": lambda *a, **k: (a, k)})
    assert same(args[0], value) and same(kwargs["key"], value)


def test_what_python_takes_for_equal_is_told_apart():
    values = [False, 0, 0.0, -0.0, True, 1, 1.0]
    written = text(items("[", [literal([value] * 40) for value in values]), indent=6)
    assert all(map(same, eval(written), [[value] * 40 for value in values]))
    calls = [Call("f", (Argument("", literal(value), positional=True),)) for value in values]
    assert all(map(same, eval(text(items("[", calls)), {"f": lambda x: x}), values))


def test_lines_are_no_wider_than_they_may_be():
    inner = Call("nn.Conv2d", tuple(Argument(f"argument_{i}", literal(i)) for i in range(9)))
    call = items("nn.Sequential", [inner, *[Call("nn.ReLU")] * 5, items("[", [literal(1000 + i) for i in range(40)])])
    written = text(call, indent=2, before=12)
    assert max(map(len, written.splitlines())) <= WIDTH
    assert "*[nn.ReLU() for _ in range(5)]," in written


@pytest.mark.parametrize("value", [object(), torch.zeros(2), {1, 2}, [object()], print, type("Number", (int,), {})(3)])
def test_anything_else_is_no_literal(value):
    assert not is_literal(value)
    with pytest.raises(ValueError, match="cannot be written as source"):
        literal(value)


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
    assert text(constructor(layer, type(layer)), before=-100) == written
    copy = eval(written, {"nn": nn, "torch": torch})
    assert repr(copy) == repr(layer)
    mine = {key: (value.shape, value.dtype) for key, value in layer.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in copy.state_dict().items()} == mine


METHOD = '''
def forward(self, x):
    """What it does."""
    if self.a is None:
        x = x + 1  # a comment stays
    elif self.flag and self.number > 2:
        x = x + 2
    elif self.unknown:
        x = x + 3
    else:
        x = x + 4
    if not self.flag or self.number == 7:
        return x * (10 if self.a is not None else 20)
    elif self.child is not None:
        x = x * 30
    for step in range(2):
        if self.flag:
            pass
        if self.number != 7:
            x = x * 2 if not self.unknown else x * 3
        if self.flag and self.unknown:
            continue
        x = x - 1
    else:
        if self.a is None:
            x = x + 0.5
    return x
'''


@given(
    st.fixed_dictionaries(
        {"a": st.sampled_from([None, PRESENT]), "flag": st.booleans(), "number": st.sampled_from([1, 3, 7])}
    ),
    st.booleans(),
    st.sampled_from([None, PRESENT]),
    st.sets(st.sampled_from(["a", "flag", "number", "child"])),
)
def test_a_folded_method_computes_the_same(values, unknown, child, hidden):
    """Whatever is known beforehand: `unknown` never, and not what is hidden."""
    values = {**values, "child": child}
    folded = fold(textwrap.dedent(METHOD).lstrip(), {k: v for k, v in values.items() if k not in hidden})
    target = type("Target", (), {**values, "unknown": unknown})()
    results = []
    for source in (METHOD, folded):
        scope = {}
        exec(source, scope)
        results.append(scope["forward"](target, 1.0))
    assert results[0] == results[1]
    if not hidden:
        assert "self.flag or" not in folded and "is None" not in folded and "is not None" not in folded
        assert "self.number" not in folded
