"""Convolutions of one input that run as one: the same outputs, gradients and shapes."""

import copy
import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.profile.memory import saved_bytes
from nas.relaxations import GumbelSoftmax, SampledPath, TwoPath
from nas.supernet.fused.merging import Kernel, family

CONVS = {1: nn.Conv1d, 2: nn.Conv2d}


def same(kernel, dilation, *, dim=2, channels=4, groups=None, **settings):
    conv = CONVS[dim]
    groups = channels if groups is None else groups
    return partial(
        conv,
        channels,
        channels,
        kernel,
        padding=dilation * (kernel - 1) // 2,
        dilation=dilation,
        groups=groups,
        **settings,
    )


def step(network, relaxation, x, fold):
    supernet = nas.Supernet(copy.deepcopy(network).double(), fold_weights=fold)
    x = x.double().requires_grad_()
    sample = supernet.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(0))
    y = supernet(x, op_weights=sample)
    (y.square().sum() + y.sum()).backward()
    return {"y": y.detach(), "x": x.grad, **{n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}}


def assert_same_step(network, x, relaxation=None):
    relaxation = relaxation or GumbelSoftmax()
    got, expected = (step(network, relaxation, x, fold) for fold in (True, False))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        # the order of sums differs: 1e-10 of the largest number, in float64
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-10 * max(1.0, float(value.abs().max())), msg=name)


@st.composite
def kernels(draw):
    dim = draw(st.sampled_from([1, 2]))
    sizes = st.tuples(st.integers(1, 5), st.integers(1, 6)).filter(lambda s: s[1] * (s[0] - 1) % 2 == 0)
    pairs = draw(st.lists(sizes, min_size=2, max_size=6))
    return dim, pairs, draw(st.booleans()), draw(st.booleans()), draw(st.integers(1, 9)), draw(st.integers(1, 9))


@given(kernels())
@settings(max_examples=60, deadline=None)
def test_every_set_of_kernels_gives_the_sum(problem):
    dim, pairs, depthwise, bias, height, width = problem
    torch.manual_seed(0)
    ops = {
        str(i): same(k, d, dim=dim, groups=4 if depthwise else 2, bias=bias and i % 2 == 0)
        for i, (k, d) in enumerate(pairs)
    }
    assert_same_step(nas.choice("op", ops), torch.randn(2, 4, *(height, width)[:dim]))


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), GumbelSoftmax(hard=True), SampledPath(), TwoPath()])
def test_every_way_to_draw(relaxation):
    torch.manual_seed(0)
    ops = {f"d{d}": same(3, d) for d in (1, 2, 3, 4, 5)} | {"skip": nn.Identity, "bn": lambda: nn.BatchNorm2d(4)}
    assert_same_step(nas.choice("op", ops), torch.randn(3, 4, 9, 9), relaxation)


def outputs_of(network, x):
    supernet = nas.Supernet(network)
    calls = []
    original = nn.functional.conv2d
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.functional, "conv2d", lambda *args, **kw: calls.append(args[1].shape) or original(*args, **kw)
        )
        supernet(x, op_weights=supernet.sample(GumbelSoftmax(), 1.0))
    return calls


def test_what_is_merged_and_what_is_not():
    x = torch.randn(2, 4, 8, 8)
    dense = partial(same, groups=1)
    merge = {
        "nested kernels": [dense(1, 1), dense(3, 1), dense(5, 1)],
        "equal": [dense(3, 1), dense(3, 1)],
        "strided": [dense(3, 1, stride=2), dense(5, 1, stride=2)],
        "padding by name": [partial(nn.Conv2d, 4, 4, size, padding="same") for size in (1, 3, 5)],
    }
    for name, ops in merge.items():
        network = nas.choice("op", {str(i): op for i, op in enumerate(ops)})
        assert len(outputs_of(network, x)) == 1, name
        assert_same_step(network, x)
    apart = {
        "dense dilations take more work together": [dense(3, 1), dense(3, 4)],
        "channels": [dense(3, 1), same(3, 1, groups=2)],
        "strides": [dense(3, 1, stride=1), dense(1, 1, stride=1, padding_mode="circular")],
        "behind an activation": [dense(3, 1), lambda: nn.Sequential(nn.ReLU(), dense(3, 1)())],
    }
    for name, ops in apart.items():
        assert len(outputs_of(nas.choice("op", {str(i): op for i, op in enumerate(ops)}), x)) == 2, name
    assert family(nn.Conv2d(4, 4, 3, padding=2)) is None and family(nn.Conv2d(4, 4, 3, padding="valid")) is None
    assert family(nn.Conv2d(4, 4, 2, padding="same")) is None, "an even kernel has no center"
    assert family(nn.Conv2d(4, 4, (1, 3), padding=(0, 1))) == family(nn.Conv2d(4, 4, 3, padding=1))
    assert family(nn.ConvTranspose2d(4, 4, 3, padding=1)) is None and family(nn.Linear(4, 4)) is None


def test_taps_run_as_one_only_where_a_kernel_visits_them_alone():
    torch.manual_seed(0)
    network = nas.choice("op", {f"d{d}": same(3, d) for d in (1, 2, 8)})
    x = torch.randn(2, 4, 9, 9)
    # otherwise a dense kernel of 17 x 17 would take the place of three of 3 x 3
    three = [torch.Size((4, 1, 3, 3))] * 3
    with torch.autocast("cpu", torch.bfloat16):
        assert outputs_of(network, x) == three
    with FlopCounterMode(display=False):
        assert outputs_of(network, x) == three
    many = {f"k{k}d{d}": same(k, d) for k, d in ((9, 1), (9, 2))}  # 81 + 81 - 25 taps
    assert len(outputs_of(nas.choice("op", many), x)) == 2


def test_hooks_keep_a_convolution_apart():
    torch.manual_seed(0)
    network = nas.choice("op", {f"d{d}": same(3, d) for d in (1, 2, 3)})
    seen = []
    network.candidates[1].register_forward_hook(lambda *_: seen.append(1))
    supernet = nas.Supernet(network)
    supernet(torch.randn(2, 4, 9, 9), op_weights=supernet.sample(GumbelSoftmax(), 1.0))
    assert seen == [1]


def test_a_wrong_shape_is_named_although_others_merge():
    ops = {"a": same(3, 1), "b": same(3, 2), "wide": lambda: nn.Conv2d(4, 4, 3, padding=3)}
    supernet = nas.Supernet(nas.choice("op", ops))
    with pytest.raises(ValueError, match=r"'op': candidate outputs differ in shape \(a: \(2, 4, 8, 8\).*wide"):
        supernet(torch.randn(2, 4, 8, 8), op_weights=supernet.sample(GumbelSoftmax(), 1.0))


def test_the_derived_network_is_the_chosen_convolution():
    torch.manual_seed(0)
    supernet = nas.Supernet(nas.choice("op", {f"d{d}": same(3, d) for d in (1, 2, 3)}))
    x = torch.randn(2, 4, 9, 9)
    for i, label in enumerate(("d1", "d2", "d3")):
        derived = supernet.derive({"op": label})
        assert type(derived) is nn.Conv2d and derived.dilation == (i + 1, i + 1)
        with torch.no_grad():
            mixed = supernet(x, op_weights=supernet.one_hot({"op": label}))
            torch.testing.assert_close(mixed, derived(x), rtol=1e-5, atol=1e-6)  # float32, sums in another order


def test_five_dilations_keep_a_quarter_of_the_activations():
    def kept(fold):
        supernet = nas.Supernet(nas.choice("op", {f"d{d}": same(3, d) for d in (1, 2, 3, 4, 5)}), fold_weights=fold)
        x = torch.randn(8, 4, 16, 16)
        y = x.requires_grad_() * 1
        sample = supernet.sample(GumbelSoftmax(), 1.0)
        return saved_bytes(lambda: supernet(y, op_weights=sample).sum(), [*supernet.parameters(), *supernet.buffers()])

    assert kept(True) <= 0.25 * kept(False)


def test_taps_of_a_kernel_are_where_a_convolution_reads():
    for size, dilation in itertools.product([(1, 3), (4, 2), (3, 5)], [(2, 1), (2, 4)]):
        reach = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
        if any(r % 2 for r in reach):
            continue
        x = torch.zeros(1, 1, 31, 31)
        x[0, 0, 15, 15] = 1
        conv = nn.Conv2d(1, 1, size, dilation=dilation, padding=[r // 2 for r in reach], bias=False)
        y = conv(x)[0, 0].detach()  # y[15 - tap] is the weight of the tap
        weights = conv.weight.detach().flatten().tolist()
        for (i, j), weight in zip(Kernel(size, dilation).taps(), weights, strict=True):
            assert float(y[15 - i, 15 - j]) == pytest.approx(weight, abs=1e-7)  # one product in float32
