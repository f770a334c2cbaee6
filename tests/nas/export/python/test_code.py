"""Expressions: plain values, and lines that are broken."""

import ast
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.export.python.code import WIDTH, call, is_plain, plain, text, unparsed
from nas.export.python.layers import shortened

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
    assert is_plain(value)
    written = unparsed(plain(value))
    assert written.isascii() and "\n" not in written
    assert same(value, eval(written, {"float": float}))


@given(PLAIN, st.integers(0, 6))
def test_a_broken_line_means_the_same(value, indent):
    node = call("f", plain(value), key=plain(value))
    args, kwargs = eval(text(node, indent=indent), {"float": float, "f": lambda *a, **k: (a, k)})
    assert same(args[0], value) and same(kwargs["key"], value)


def test_values_that_python_takes_for_equal_stay_different():
    values = [False, 0, 0.0, -0.0, True, 1, 1.0]
    written = text(plain([[value] * 40 for value in values]), indent=6)
    assert all(map(same, eval(written), [[value] * 40 for value in values]))
    calls = ast.List([call("f", plain(value)) for value in values], ast.Load())
    assert all(map(same, eval(text(shortened(calls)), {"f": lambda x: x}), values))


def test_lines_are_no_wider_than_they_may_be():
    inner = call("f", **{f"argument_{i}": plain(i) for i in range(9)})
    numbers = plain([1000 + i for i in range(40)])
    node = call("nn.Sequential", inner, *[call("nn.ReLU")] * 5, numbers)
    written = text(shortened(node), indent=2, before=12)
    assert max(map(len, written.splitlines())) <= WIDTH
    assert "*[nn.ReLU() for _ in range(5)]," in written


@pytest.mark.parametrize("value", [object(), torch.zeros(2), {1, 2}, [object()], print, type("Number", (int,), {})(3)])
def test_no_other_value_is_plain(value):
    assert not is_plain(value)
    with pytest.raises(ValueError, match="cannot be written as source"):
        plain(value)
