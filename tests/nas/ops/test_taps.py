"""Depthwise convolution with few taps, native and as an expression, against sums of separate dilated convolutions in float64."""

import functools
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nas.ops import fused, native, tap_conv, tap_conv_reference
from nas.ops.taps import expression_backward

CPU = torch.device("cpu")
LINE = ((-2,), (0,), (3,))
PLANE = ((-1, -2), (0, 0), (0, 3), (2, -1), (9, 9))


@pytest.fixture
def calls(monkeypatch):
    """The names of the library functions that are called; skips where there is no library."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    library = native.find("cpu")
    if isinstance(library, str):
        pytest.skip(f"no native library: {library}")
    found = []

    def called(name):
        return lambda *args: found.append(name.removeprefix("taps_")) or getattr(library, name)(*args)

    names = ("taps_forward", "taps_backward")
    monkeypatch.setitem(fused._live, "cpu", replace(library, **{name: called(name) for name in names}))
    return found


def inputs(shape=(2, 3, 11), offsets=LINE, dtype=torch.float32, requires_grad=True, seed=0):
    """x, the weights and a gradient of the result."""
    generator = torch.Generator().manual_seed(seed)
    x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    weights = torch.randn(shape[-len(offsets[0]) - 1], len(offsets), generator=generator).to(dtype)
    return x.requires_grad_(requires_grad), weights.requires_grad_(requires_grad), grad


def gradients(function, x, weights, grad):
    """The result, and the gradients of what needs one."""
    result = function(x, weights)
    return result.detach(), *torch.autograd.grad(result, [t for t in (x, weights) if t.requires_grad], grad)


def with_offsets(function, offsets):
    return functools.partial(function, offsets=offsets)


def in_double(x, weights, grad, offsets, change=lambda t: t):
    """:func:`gradients` by shifting and adding, one tap after the other, in float64."""
    leaves = [change(t.detach().double()).requires_grad_(t.requires_grad) for t in (x, weights)]

    def shifted(x, weights):
        total = x * 0 + weights.sum() * 0
        num = len(offsets[0])
        sizes = x.shape[-num:]
        for t, offset in enumerate(offsets):
            if all(abs(o) < n for o, n in zip(offset, sizes, strict=True)):
                pads = [p for o in reversed(offset) for p in (max(0, -o), max(0, o))]
                window = F.pad(x, pads)
                for dim, (o, size) in enumerate(zip(offset, sizes, strict=True), window.dim() - num):
                    window = window.narrow(dim, max(0, o), size)
                total = total + window * weights[:, t].view(-1, *[1] * num)
        return total

    return gradients(shifted, *leaves, change(grad.double()))


# ---- Agreement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "dilations"), [((4, 6, 50), (1, 2, 4, 8, 16)), ((3, 5, 12, 13), (1, 2, 3, 4, 5))])
@pytest.mark.parametrize("function", [tap_conv, tap_conv_reference])
def test_is_what_several_dilated_convolutions_are_together(function, shape, dilations):
    num, channels = len(shape) - 2, shape[1]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    kernels = [
        torch.randn(channels, 1, *[3] * num, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in dilations
    ]
    rows = torch.rand(5, generator=generator, dtype=torch.float64, requires_grad=True)
    convolution = F.conv1d if num == 1 else F.conv2d
    apart = sum(
        row * convolution(x, kernel, padding=d, dilation=d, groups=channels)
        for row, kernel, d in zip(rows.unbind(), kernels, dilations, strict=True)
    )
    steps = [(i,) for i in (-1, 0, 1)] if num == 1 else [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    offsets = tuple(tuple(i * d for i in step) for d in dilations for step in steps)
    weights = torch.cat([row * kernel.flatten(1) for row, kernel in zip(rows.unbind(), kernels, strict=True)], 1)
    together = function(x, weights, offsets)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    wanted = [x, rows, *kernels]
    got, expected = (torch.autograd.grad(y, wanted, grad) for y in (together, apart))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-10)


LAYOUTS = ("contiguous", "channels_last", "transposed", "strided", "expanded", "overlapping", "unaligned")


def laid_out(tensor, layout):
    """The same numbers, or others of the same shape, in another memory layout; a new tensor."""
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed":
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "strided":
        return torch.stack([tensor, tensor], -1)[..., 0]
    if layout == "expanded" and tensor.numel():
        return tensor[:1].expand(tensor.shape)
    if layout == "overlapping" and tensor.numel():
        return tensor.flatten()[: sum(tensor.shape) - tensor.dim() + 1].as_strided(tensor.shape, [1] * tensor.dim())
    if layout == "unaligned":
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    return tensor.clone()


@st.composite
def problems(draw):
    num = draw(st.integers(1, 2))
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 4)), *(draw(st.integers(0, 20)) for _ in range(num)))
    far = st.tuples(*[st.integers(-n - 1, n + 1) for n in shape[2:]])
    near = st.tuples(*[st.integers(-4, 4)] * num)
    taps = st.one_of(near, far)
    if draw(st.integers(0, 4)) == 0:
        # near ones only: the dense kernel of the reference would take hours
        shape = draw(st.sampled_from([(2, 3, 5000), (9, 2, 2500)] if num == 1 else [(2, 3, 70, 65), (6, 2, 40, 64)]))
        taps = near
    offsets = draw(st.lists(taps, min_size=1, max_size=12))
    wants = draw(st.sampled_from(["both", "x", "weights"]))
    dtypes = st.sampled_from(list(native.DTYPES))
    return shape, tuple(offsets), wants, draw(st.sampled_from(LAYOUTS)), draw(st.booleans()), draw(dtypes), draw(dtypes)


@given(problems())
@settings(max_examples=120, deadline=None)
def test_every_layout_type_and_size_agrees_with_the_reference_and_with_float64(problem):
    shape, offsets, wants, layout, grad_too, dtype, weight_dtype = problem
    x, weights, grad = inputs(shape, offsets, dtype, requires_grad=False)
    x = laid_out(x, layout).requires_grad_(wants != "weights")
    grad = laid_out(grad, layout) if grad_too else grad
    weights = weights.to(weight_dtype).requires_grad_(wants != "x")
    got = gradients(with_offsets(tap_conv, offsets), x, weights, grad)
    reference = gradients(with_offsets(tap_conv_reference, offsets), x, weights, grad)
    true = in_double(x, weights, grad, offsets)
    sizes = in_double(x, weights, grad, offsets, torch.abs)  # of the terms
    unit = max(torch.finfo(dtype).eps, torch.finfo(weight_dtype).eps)
    for mine, other, value, size in zip(got, reference, true, sizes, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        assert ((mine.double() - value).abs() <= 8 * unit * size + 2**-24).all()
        # which rounds the weights to the input's type, and sums of 16-bit types more than once
        assert ((other.double() - value).abs() <= (len(offsets) + 300) * unit * size + 2**-24).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_results_are_rounded_once(calls, dtype):
    x, weights, grad = inputs((2, 3, 8, 70), PLANE, dtype)
    weights = weights.detach().float().requires_grad_()
    result, x_grad, weight_grad = gradients(with_offsets(tap_conv, PLANE), x, weights, grad)
    true = in_double(x, weights, grad, PLANE)
    sizes = in_double(x, weights, grad, PLANE, torch.abs)
    assert weight_grad.dtype == torch.float32 and result.dtype == x_grad.dtype == dtype
    for mine, value, size in zip([result, x_grad], true[:2], sizes[:2], strict=True):
        assert ((mine.double() - value).abs() <= value.abs() * torch.finfo(dtype).eps / 2 + size * 1e-6 + 2**-25).all()
    assert ((weight_grad.double() - true[2]).abs() <= sizes[2] * 1e-5).all()


@pytest.mark.parametrize(("shape", "offsets"), [((2, 2, 7), LINE), ((1, 2, 4, 5), PLANE), ((2, 1, 3), ((3,), (-9,)))])
def test_gradcheck_and_gradgradcheck(calls, shape, offsets):
    x, weights, _ = inputs(shape, offsets, torch.float64)
    assert torch.autograd.gradcheck(with_offsets(tap_conv, offsets), (x, weights))
    assert "backward" in calls
    assert torch.autograd.gradgradcheck(with_offsets(tap_conv, offsets), (x, weights))
    assert torch.autograd.gradgradcheck(with_offsets(tap_conv, offsets), (x.detach(), weights))
    assert torch.autograd.gradgradcheck(with_offsets(tap_conv, offsets), (x, weights.detach()))
    strided = laid_out(x.detach(), "strided").requires_grad_()
    assert torch.autograd.gradgradcheck(with_offsets(tap_conv, offsets), (strided, weights))


def test_the_expression_of_the_gradients_is_that_of_the_kernels(calls):
    x, weights, grad = inputs((2, 3, 7, 8), PLANE, torch.float64)
    got = gradients(with_offsets(tap_conv, PLANE), x, weights, grad)[1:]
    other = expression_backward(grad, x.detach(), weights.detach(), PLANE)
    torch.testing.assert_close(got, other, rtol=1e-12, atol=1e-12)


# ---- Which path is taken --------------------------------------------------------------------------------------------

LEFT = {
    "no batch": (lambda: inputs((3, 11))[0], LINE),
    "no batch of images": (lambda: inputs((3, 11, 8), PLANE)[0], PLANE),
    "empty": (lambda: torch.ones(0, 3, 11), LINE),
    "integers": (lambda: torch.ones(2, 3, 11, dtype=torch.int64), LINE),
    "complex": (lambda: torch.ones(2, 3, 11, dtype=torch.complex64), LINE),
    "negative view": (lambda: torch._neg_view(torch.ones(2, 3, 11)), LINE),
    "subclass": (lambda: torch.ones(2, 3, 11).as_subclass(type("Sub", (torch.Tensor,), {})), LINE),
    "129 taps": (lambda: torch.randn(2, 3, 11), tuple((t % 23 - 11,) for t in range(129))),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_the_expression(calls, name):
    make, offsets = LEFT[name]
    x = make().detach()
    weights = torch.randn(3, len(offsets)).to(x.dtype)
    got = tap_conv(x, weights, offsets)
    assert calls == [] and got.shape == x.shape
    torch.testing.assert_close(got, tap_conv_reference(x, weights, offsets))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_layout_are_taken(calls, layout):
    x, weights, grad = inputs((2, 3, 7, 8), PLANE)
    x = laid_out(x.detach(), layout).requires_grad_()
    got = gradients(with_offsets(tap_conv, PLANE), x, weights, laid_out(grad, layout))
    assert calls == ["forward", "backward"] and got[0].is_contiguous()
    true = in_double(x, weights, laid_out(grad, layout), PLANE)
    torch.testing.assert_close([t.double() for t in got], list(true), rtol=1e-5, atol=1e-4)


def test_128_taps_and_parameters_are_taken(calls):
    offsets = tuple((t % 23 - 11,) for t in range(128))
    x, weights, grad = inputs((2, 3, 30), offsets)
    got = gradients(with_offsets(tap_conv, offsets), nn.Parameter(x.detach()), nn.Parameter(weights.detach()), grad)
    assert calls == ["forward", "backward"]
    torch.testing.assert_close(
        [t.double() for t in got], list(in_double(x, weights, grad, offsets)), rtol=1e-4, atol=1e-4
    )


def test_offsets_of_any_size(calls):
    offsets = ((0,), (10**30,), (-(10**30),), (2**63,), (-(2**63),), (2**31,), (1,))
    x, weights, grad = inputs((1, 2, 6), offsets)
    got = gradients(with_offsets(tap_conv, offsets), x, weights, grad)
    torch.testing.assert_close(got, gradients(with_offsets(tap_conv_reference, offsets), x, weights, grad))
    assert calls == ["forward", "backward"] and not got[2][:, 1:6].any()


@pytest.mark.parametrize("function", [tap_conv, tap_conv_reference])
def test_bad_arguments_are_refused_alike(function):
    x, weights = torch.ones(2, 3, 11), torch.ones(3, 2)
    for bad in ((), ((0,), (0, 0)), ((),), ((0, 0, 0),) * 2):
        with pytest.raises(ValueError, match="offsets must be at least one tuple of one or two integers"):
            function(x, weights, bad)
    with pytest.raises(ValueError, match=r"offsets of 1 integers do not fit an input of shape \(2, 3, 11, 1\)"):
        function(x[..., None], weights, ((0,), (1,)))
    with pytest.raises(ValueError, match=r"weights of shape \(3, 2\) do not fit 3 channels and 3 offsets"):
        function(x, weights, LINE)
    with pytest.raises(ValueError, match="do not fit 2 channels and 2 offsets"):
        function(x[:, :2], weights, ((0,), (1,)))


@pytest.mark.parametrize("shape", [(0, 3, 11), (2, 0, 11), (2, 3, 0), (2, 3, 0, 4), (2, 3, 4, 0)])
@pytest.mark.parametrize("function", [tap_conv, tap_conv_reference])
def test_empty_inputs_have_gradients(function, shape):
    offsets = LINE if len(shape) == 3 else PLANE
    x, weights, grad = inputs(shape, offsets)
    result, x_grad, weight_grad = gradients(with_offsets(function, offsets), x, weights, grad)
    assert result.shape == x_grad.shape == shape and weight_grad.shape == weights.shape and not weight_grad.any()


def test_only_gradients_that_are_needed_are_computed_and_only_what_they_need_is_kept(calls):
    x, weights, grad = inputs((2, 3, 11))
    saved = []

    def save(tensor):
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        tap_conv(x, weights, LINE)
        assert saved == [(2, 3, 11), (3, 3)]
        tap_conv(x, weights.detach(), LINE).backward(grad)
        tap_conv(x.detach(), weights, LINE).backward(grad)
        assert saved[2:] == [(3, 3), (2, 3, 11)]
    with torch.no_grad():
        assert tap_conv(x, weights, LINE).grad_fn is None
    assert tap_conv(x.detach(), weights.detach(), LINE).grad_fn is None
    assert calls == ["forward"] + ["forward", "backward"] * 2 + ["forward"] * 2


def test_changing_the_input_in_place_before_the_backward_pass_is_an_error(calls):
    x, weights, grad = inputs()
    copy = x * 1
    result = tap_conv(copy, weights, LINE)
    copy.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward(grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_is_the_convolution_that_torch_makes_of_it(calls, dtype):
    x, weights, _ = inputs(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = tap_conv(x, weights, LINE)
        assert torch.equal(result, tap_conv_reference(x, weights, LINE))
    assert result.dtype == torch.bfloat16 and calls == []


def test_the_environment_chooses():
    code = (
        "import torch; from nas.ops import tap_conv\n"
        "y = tap_conv(torch.ones(1, 2, 3, requires_grad=True), torch.ones(2, 1), ((1,),)); print(y.grad_fn.name())"
    )

    def run(word):
        environment = {**os.environ, native.VARIABLE: word}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)

    assert run("reference").stdout.strip() == "ConvolutionBackward0"
    if not isinstance(native.find("cpu"), str):
        assert run("native").stdout.strip() == "_TapConvBackward"


# ---- Under everything that watches or transforms --------------------------------------------------------------------


def test_compile_and_export_see_the_plain_expression(calls):
    x, weights, grad = inputs()
    compiled = torch.compile(with_offsets(tap_conv, LINE), fullgraph=True, backend="aot_eager")
    got = gradients(compiled, x, weights, grad)
    other = gradients(with_offsets(tap_conv_reference, LINE), x, weights, grad)
    torch.testing.assert_close(got, other)

    class Net(nn.Module):
        def forward(self, x, w):
            return tap_conv(x, w, LINE)

    for strict in (True, False):
        program = torch.export.export(Net(), (x.detach(), weights.detach()), strict=strict)
        assert "aten.conv1d" in str(program.graph)
    assert calls == []


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*")
def test_functorch_and_forward_mode_see_the_plain_expression(calls):
    x, weights, _ = inputs((2, 2, 4), dtype=torch.float64, requires_grad=False)

    def f(x, w):
        return tap_conv(x, w, LINE)

    def plain(x, w):
        return tap_conv_reference(x, w, LINE)

    transforms = {
        "vmap": lambda f: torch.func.vmap(f, (0, None))(torch.stack([x, 2 * x]), weights),
        "vmap over weights": lambda f: torch.func.vmap(f, (None, 0))(x, torch.stack([weights, 2 * weights])),
        "jvp": lambda f: torch.func.jvp(f, (x, weights), (x, weights))[1],
        "grad": lambda f: torch.func.grad(lambda w: f(x, w).sum())(weights),
        "jacrev": lambda f: torch.func.jacrev(f)(x, weights),
        "hessian": lambda f: torch.func.hessian(lambda w: f(x, w).pow(2).sum())(weights),
    }
    for transform in transforms.values():
        torch.testing.assert_close(transform(f), transform(plain))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x * 2)
        torch.testing.assert_close(forward_ad.unpack_dual(f(dual, weights)).tangent, plain(x * 2, weights))
    assert calls == []


@pytest.mark.filterwarnings("ignore:.*vmap.*:UserWarning")
def test_batched_gradients(calls):
    x, weights, _ = inputs((2, 2, 4), dtype=torch.float64)
    grads = torch.randn(6, 2, 2, 4, dtype=torch.float64)
    got = torch.autograd.grad(tap_conv(x, weights, LINE), [x, weights], grads, is_grads_batched=True)
    other = torch.autograd.grad(tap_conv_reference(x, weights, LINE), [x, weights], grads, is_grads_batched=True)
    torch.testing.assert_close(got, other)
    assert calls == ["forward"]


def test_modes_fake_tensors_and_tracers_see_the_plain_expression(calls, operations):
    x, weights, grad = inputs()

    with operations() as seen:
        tap_conv(x, weights, LINE)
    assert "convolution" in seen.names and calls == []
    with torch._subclasses.FakeTensorMode() as mode:
        assert tap_conv(mode.from_tensor(x), mode.from_tensor(weights), LINE).shape == x.shape
    assert tap_conv(x.to("meta"), weights.to("meta"), LINE).shape == x.shape
    traced = make_fx(with_offsets(tap_conv, LINE))(x.detach(), weights.detach())
    assert "convolution" in traced.code and calls == []
    # a mode that is only there in the backward pass
    result = tap_conv(x, weights, LINE)
    with operations() as seen:
        result.backward(grad)
    assert "convolution" in seen.names and calls == ["forward"]


def test_checkpointing_and_inference_mode(calls):
    x, weights, grad = inputs()
    again = functools.partial(checkpoint, with_offsets(tap_conv, LINE), use_reentrant=False)
    got = gradients(again, x, weights, grad)
    assert calls == ["forward", "forward", "backward"]
    with torch.inference_mode():
        assert torch.equal(tap_conv(x, weights, LINE), got[0])


# ---- Threads, and what the kernels say of themselves ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize(("shape", "offsets"), [((9, 3, 3001), LINE), ((6, 4, 40, 47), PLANE)])
def test_all_bits_are_the_same_for_any_number_of_threads_and_every_time(calls, dtype, shape, offsets):
    values = inputs(shape, offsets, dtype)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(with_offsets(tap_conv, offsets), *values))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_an_error_of_the_library_is_raised(calls, monkeypatch):
    monkeypatch.setitem(fused._live, "cpu", replace(fused._live["cpu"], taps_forward=lambda *args: 4))
    with pytest.raises(RuntimeError, match=r"failed with error 4"):
        tap_conv(*inputs()[:2], LINE)


def test_self_check_finds_wrong_taps(calls):
    library = fused._live["cpu"]
    assert fused.self_check(library, CPU) == ""

    def fewer(code, batch, channels, height, width, num, *rest):
        return library.taps_forward(code, batch, channels, height, width, num - 1, *rest)

    def without(index):
        def function(*args):
            return library.taps_backward(*args[:index], None, *args[index + 1 :])

        return function

    assert "the result of taps is wrong" in fused.self_check(replace(library, taps_forward=fewer), CPU)
    for index, name in ((10, "input"), (11, "weights")):
        wrong = fused.self_check(replace(library, taps_backward=without(index)), CPU)
        assert f"the gradient of the {name} of taps is wrong" in wrong or "nan" in wrong
