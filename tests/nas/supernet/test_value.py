"""Values: numbers that know what they are under each choice."""

import copy
import itertools
import math
import operator
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nas
from nas.supernet.value import Value, resolved

A, B = (1, 2, 5), (2, 3)


@given(st.data())
def test_arithmetic_knows_the_result_of_each_combination(data):
    binary = st.sampled_from(["add", "sub", "mul", "floordiv", "mod", "lshift", "rshift", "and_", "or_", "xor"])
    plain = {(a, b): [a, b] for a, b in itertools.product(A, B)}
    values = [nas.value("a", A), nas.value("b", B)]
    for _ in range(data.draw(st.integers(1, 4))):
        function = getattr(operator, data.draw(binary))
        i, j = (data.draw(st.integers(-1, len(values) - 1)) for _ in range(2))  # -1: a plain number
        pick = lambda known, k: 3 if k < 0 else known[k]  # noqa: E731
        try:
            wanted = {key: function(pick(known, i), pick(known, j)) for key, known in plain.items()}
        except (ZeroDivisionError, ValueError):  # a negative shift
            continue
        if max(map(abs, wanted.values())) > 10**6:
            continue  # a shift by a large number has no end
        values.append(function(pick(values, i), pick(values, j)))
        for key, known in plain.items():
            known.append(wanted[key])
    for k, value in enumerate(values):
        for a, b in plain:
            assert resolved(value, {"a": str(a), "b": str(b)}) == plain[a, b][k]
        assert str(value) == str(plain[5, 3][k]), "while searching, a value is that of the largest numbers"


def test_functions_of_one_value():
    value, whole = nas.value("rate", (-0.75, 0.5)), nas.value("whole", (-3, 4))
    for function in (
        operator.neg,
        operator.pos,
        abs,
        round,
        math.trunc,
        lambda v: 2 / v,
        lambda v: v**2,
        lambda v: round(v / 3, 1),
    ):
        assert [resolved(function(value), {"rate": label}) for label in ("-0.75", "0.5")] == [
            function(-0.75),
            function(0.5),
        ]
    for function in (
        operator.invert,
        lambda v: 2**v,
        lambda v: divmod(v, 3),
        lambda v: divmod(7, v),
        math.floor,
        math.ceil,
    ):
        assert [resolved(function(whole), {"whole": label}) for label in ("-3", "4")] == [function(-3), function(4)]


def test_a_test_is_answered_if_all_numbers_agree():
    value, rate = nas.value("v", (1, 3)), nas.value("rate", (0.5, 0.25))
    answers = [value > 0, value % 2 == 1, bool(value), 4 > value, value != 2, value == "3", rate < value, rate is None]
    assert answers == [True, True, True, True, True, False, True, False] and {type(answer) for answer in answers} == {
        bool
    }
    assert value in (value,) and len({value, rate, value}) == 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda v: v > 1,
        lambda v: 3 == v,
        lambda v: v != 1,
        lambda v: v <= nas.value("other", (2, 4)),
        lambda v: v - 1 or 7,
        lambda v: max(v, 2),
        lambda v: {3: "three"}[v],
        lambda v: v in (1, 2),
        lambda v: int(v * 1.5),
        lambda v: float(v),
        lambda v: math.sqrt(v),
        lambda v: nn.LSTM(4, 4, 2, dropout=v / 4),
    ],
)
def test_what_would_lose_the_choice_is_refused(ask):
    with pytest.raises(ValueError, match=r"differs between the numbers of '(v|other)'|would lose the numbers of 'v'"):
        ask(nas.value("v", (1, 3)))


def test_equal_results_are_a_plain_number():
    heads = nas.value("heads", (2, 4))
    assert type(12 // heads * heads) is int and 12 // heads * heads == 12
    assert isinstance(14 // heads * heads, Value)


def test_copies_and_pickles_keep_the_choice():
    value = nas.value("a", A) * 2
    assert copy.deepcopy(value) is value and copy.copy(value) is value
    again = pickle.loads(pickle.dumps(value))
    assert [resolved(again, {"a": str(a)}) for a in A] == [2 * a for a in A]


def test_under_an_architecture_a_value_is_a_plain_number():
    with nas.architecture({"s.rate": "0.5", "s.kernel": "3"}), nas.scope("s"):
        made = [nas.value("rate", (0.5, 0.1)), nas.value("kernel", (3, 5))]
    assert made == [0.5, 3] and [type(number) for number in made] == [float, int]


@pytest.mark.parametrize("numbers", [(1,), (1, 1), (1, 1.0), (1, "2"), (1, True), (1, np.int64(2)), (1, float("inf"))])
def test_bad_numbers(numbers):
    with pytest.raises(ValueError, match=r"different finite numbers of type int or float|at least two"):
        nas.value("v", numbers)


def test_what_cannot_be_combined():
    value, width = nas.value("v", (1, 2)), nas.width("w", (2, 4))
    for combine in (lambda: value * width, lambda: value + "1", lambda: value + nas.value("v", (1, 2))):
        with pytest.raises(ValueError, match=r"combined with numbers and other values|used for two values"):
            combine()
    with pytest.raises(ValueError, match=r"not with nas\.value"):
        width * value


def test_a_genotype_without_the_number_or_with_another_one_is_refused():
    for genotype, message in (({}, "no label for choice 'k'"), ({"k": "4"}, "has no candidate '4'")):
        with pytest.raises(ValueError, match=message), nas.architecture(genotype):
            nn.Conv1d(1, 1, nas.value("k", (3, 5)))


def test_a_name_used_for_two_values_is_refused_unless_shared():
    def network(shared):
        return nn.Sequential(*[nn.Dropout(nas.value("p", (0.1, 0.2), shared=shared)) for _ in range(2)])

    with pytest.raises(ValueError, match="choice 'p' is used twice"):
        nas.Supernet(network(False))
    assert nas.Supernet(network(True)).num_architectures == 2
