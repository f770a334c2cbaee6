"""The mixing operation on the native kernels, against float64 and against the reference expression."""

import ctypes
import functools
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from nas.ops import fused, mix, mix_reference, native, sum_outputs
from nas.ops.mix import weighted

CPU = torch.device("cpu")


class Calls(list):
    """The names of the library functions that were called."""

    def spy(self, library):
        def called(name):
            def function(*args):
                self.append(name)
                return getattr(library, name)(*args)

            return function

        return replace(library, forward=called("forward"), backward=called("backward"))


@pytest.fixture
def calls(monkeypatch):
    """Counts native calls; skips where there is no library."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    library = native.find("cpu")
    if isinstance(library, str):
        pytest.skip(f"no native library: {library}")
    found = Calls()
    monkeypatch.setitem(fused._live, "cpu", found.spy(library))
    return found


def inputs(k=5, shape=(4, 3, 5), dtype=torch.float32, weights=None, requires_grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_(requires_grad) for _ in range(k)]
    rows = torch.rand(*(weights or ()), k, generator=generator)
    if dtype == torch.float64:
        rows = rows.double()
    return outputs, rows.requires_grad_(requires_grad), torch.randn(shape, generator=generator).to(dtype)


def gradients(function, outputs, weights, grad):
    """The result, and the gradients of weights and outputs that need one."""
    result = function(outputs, weights)
    wanted = [t for t in [weights, *outputs] if t.requires_grad]
    return result.detach(), *torch.autograd.grad(result, wanted, grad)


def in_double(outputs, weights, grad, dim, change=lambda t: t):
    """:func:`gradients` of the reference expression for the same numbers in float64, a tensor that is there twice likewise."""
    leaves = {id(t): change(t.detach().double()).requires_grad_(t.requires_grad) for t in [*outputs, weights]}
    function = functools.partial(mix_reference, dim=dim)
    return gradients(function, [leaves[id(o)] for o in outputs], leaves[id(weights)], change(grad.double()))


# ---- Agreement ------------------------------------------------------------------------------------------------------

LAYOUTS = ("contiguous", "channels_last", "transposed", "strided", "expanded", "twice")


def laid_out(tensor, layout):
    """The same numbers in another memory layout; a new tensor."""
    if layout == "channels_last" and tensor.dim() >= 2:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed" and tensor.dim() >= 2:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "strided":
        return torch.stack([tensor, tensor], -1)[..., 0]
    return tensor.clone()


@st.composite
def problems(draw):
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    if draw(st.integers(0, 3)) == 0:
        shape = draw(st.sampled_from([(64,), (2, 3000), (3, 16, 9, 9), (40000,), (2, 5, 70)]))
    k = draw(st.sampled_from([*range(1, 13), 64, 65]))
    dim = draw(st.integers(0, len(shape) - 1)) if shape and draw(st.booleans()) else None
    wants = draw(st.sampled_from(["all", "weights", "outputs", "some"]))
    return (
        shape,
        k,
        dim,
        wants,
        draw(st.sampled_from(LAYOUTS)),
        draw(st.booleans()),
        draw(st.sampled_from(list(native.DTYPES))),
        draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])),
    )


@given(problems())
@settings(max_examples=150, deadline=None)
def test_every_layout_type_and_size_agrees_with_the_reference_and_with_float64(problem):
    shape, k, dim, wants, layout, is_mixed, dtype, weight_dtype = problem
    outputs, weights, grad = inputs(k, shape, dtype, None if dim is None else (shape[dim],), requires_grad=False)
    outputs = [laid_out(o, layout) for o in outputs]
    if layout == "twice" and k > 1:
        outputs[1] = outputs[0]
    if layout == "expanded" and shape:
        outputs[0] = outputs[0][:1].expand(shape) if shape[0] else outputs[0]
    if is_mixed:
        outputs[-1] = laid_out(outputs[-1], "contiguous")
        grad = laid_out(grad, layout)
    weights = weights.to(weight_dtype)
    for tensor in outputs if wants in ("all", "outputs") else outputs[::2] if wants == "some" else []:
        tensor.requires_grad_()
    weights.requires_grad_(wants != "outputs")

    dim = dim or 0
    got = gradients(functools.partial(mix, dim=dim), outputs, weights, grad)
    reference = gradients(functools.partial(mix_reference, dim=dim), outputs, weights, grad)
    true = in_double(outputs, weights, grad, dim)
    sizes = in_double(outputs, weights, grad, dim, torch.abs)  # of the terms
    # the reference rounds the weights to the outputs' dtype, then every term and every sum; kernels less often
    unit = max(torch.finfo(dtype).eps, torch.finfo(weight_dtype).eps)
    for mine, other, value, size in zip(got, reference, true, sizes, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        assert ((mine.double() - value).abs() <= (k + 8) * unit * size + 2**-24).all()


@pytest.mark.parametrize("k", [1, 2, 5, 8, 9, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [None, (8,)])
def test_result_and_gradients_of_the_outputs_have_the_bits_of_the_reference(calls, k, dtype, weights):
    values = inputs(k, (8, 9000), dtype, weights)
    got, reference = gradients(mix, *values), gradients(mix_reference, *values)
    assert calls == ["forward", "backward"]
    assert torch.equal(got[0], reference[0]) and all(map(torch.equal, got[2:], reference[2:]))


@pytest.mark.parametrize("shape", [(64,), (8, 9000)])
def test_weights_of_one_hot_choose_exactly(calls, shape):
    outputs, _, grad = inputs(4, shape)
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0])
    result, *grads = gradients(mix, outputs, weights, grad)
    assert calls == ["forward", "backward"] and torch.equal(result, outputs[2])
    assert torch.equal(grads[2], grad) and not any(g.any() for g in (grads[0], grads[1], grads[3]))


@pytest.mark.parametrize("weights", [None, (8,)])
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_terms_of_their_own_have_the_bits_of_the_whole(calls, dtype, weights):
    """So that recomputing candidates one by one, or running only some of them, changes no gradient."""
    for k in (2, 8, 11):
        values = inputs(k, (8, 3000), dtype, weights)
        whole = gradients(mix, *values)
        alone = gradients(lambda x, w: sum(map(weighted, x, w.unbind(-1))), *values)
        assert all(map(torch.equal, whole[1:], alone[1:]))
        assert torch.equal(whole[0], alone[0]) or dtype.itemsize == 2  # which is rounded once
    assert calls[:4] == ["forward", "backward", "forward", "forward"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_results_are_rounded_once(calls, dtype):
    outputs, weights, grad = inputs(8, (3, 400), dtype)
    result, weight_grad, *grads = gradients(mix, outputs, weights, grad)
    true = in_double(outputs, weights, grad, 0)
    sizes = in_double(outputs, weights, grad, 0, torch.abs)
    assert weight_grad.dtype == torch.float32 and result.dtype == grads[0].dtype == dtype
    for mine, value, size in zip([result, *grads], [true[0], *true[2:]], [sizes[0], *sizes[2:]], strict=True):
        assert ((mine.double() - value).abs() <= value.abs() * torch.finfo(dtype).eps / 2 + size * 1e-6 + 2**-25).all()
    assert ((weight_grad.double() - true[1]).abs() <= sizes[1] * 1e-5).all()  # 1200 terms, summed in float32


@pytest.mark.parametrize("weights", [None, (4,)])
@pytest.mark.parametrize("size", [5, 700])
def test_gradcheck_and_gradgradcheck(calls, weights, size):
    outputs, rows, _ = inputs(3, (4, size // 5), torch.float64, weights)
    assert torch.autograd.gradcheck(lambda w, *x: mix(x, w), (rows, *outputs))
    assert "backward" in calls
    assert torch.autograd.gradgradcheck(lambda w, *x: mix(x, w), (rows, *outputs))
    # per channel
    if weights:
        transposed = [o.detach().t().contiguous().requires_grad_() for o in outputs]
        assert torch.autograd.gradcheck(lambda w, *x: mix(x, w, dim=1), (rows, *transposed))
        assert torch.autograd.gradgradcheck(lambda w, *x: mix(x, w, dim=-1), (rows, *transposed))


def test_second_derivatives_where_only_some_tensors_need_them(calls):
    outputs, weights, _ = inputs(3, (4, 6), torch.float64)
    fixed = [o.detach() for o in outputs]

    def penalty(function, x, w, wanted):
        first = torch.autograd.grad(function(x, w).pow(3).sum(), wanted, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), wanted)

    for x, w in [(outputs, weights.detach()), (fixed, weights), ([outputs[0], *fixed[1:]], weights)]:
        wanted = [t for t in [*x, w] if t.requires_grad]
        for mine, other in zip(penalty(mix, x, w, wanted), penalty(mix_reference, x, w, wanted), strict=True):
            assert torch.allclose(mine, other, rtol=1e-12)


# ---- Which path is taken --------------------------------------------------------------------------------------------

TAKEN = {
    "per batch": (5, (4, 3, 5), torch.float32, None, 0, "contiguous"),
    "per sample": (5, (4, 3, 5), torch.float32, (4,), 0, "contiguous"),
    "per sample, one": (5, (1, 3, 5), torch.float32, (1,), 0, "contiguous"),
    "per channel": (3, (4, 3, 5, 2), torch.bfloat16, (3,), 1, "contiguous"),
    "per channel, channels last": (3, (4, 3, 5, 2), torch.float16, (3,), 1, "channels_last"),
    "per sample, channels last": (3, (4, 3, 5, 2), torch.float64, (4,), 0, "channels_last"),
    "transposed": (3, (4, 3, 5), torch.float32, (4,), 0, "transposed"),
    "last dimension": (3, (4, 3, 5), torch.float32, (5,), -1, "contiguous"),
    "scalars": (3, (), torch.float32, None, 0, "contiguous"),
    "one output": (1, (4,), torch.float32, None, 0, "contiguous"),
    "64 outputs": (64, (4,), torch.float32, None, 0, "contiguous"),
}
LEFT = {
    "empty": (3, (0, 3), torch.float32, None, 0, "contiguous"),
    "strided": (3, (4, 3), torch.float32, None, 0, "strided"),
    "65 outputs": (65, (4,), torch.float32, None, 0, "contiguous"),
    "complex": (3, (4,), torch.complex64, None, 0, "contiguous"),
}


@pytest.mark.parametrize("name", [*TAKEN, *LEFT])
def test_what_the_kernels_take(calls, name):
    k, shape, dtype, weights, dim, layout = {**TAKEN, **LEFT}[name]
    outputs, rows, _ = inputs(k, shape, dtype, weights)
    grad = torch.ones(shape, dtype=dtype)
    outputs = [laid_out(o.detach(), layout).requires_grad_() for o in outputs]
    result = mix(outputs, rows, dim=dim)
    assert calls == (["forward"] if name in TAKEN else [])
    reference = mix_reference(outputs, rows, dim=dim)
    assert torch.allclose(result, reference, rtol=2**-6, atol=2**-6)  # the 16-bit reference rounds after every term
    # in memory too: what follows sees the layout that it would see without kernels
    assert result.stride() == reference.stride()
    result.backward(grad)
    assert outputs[0].grad.stride() == outputs[0].stride() or name not in TAKEN


def test_mixed_dtypes_layouts_shapes_and_subclasses_are_left_to_the_reference(calls):
    class Sub(torch.Tensor):
        pass

    x, w = torch.randn(4, 3), torch.rand(2)
    for other in [x.double(), x.t().contiguous().t(), x[:1], x.as_subclass(Sub), torch._neg_view(x)]:
        assert torch.equal(mix([x, other], w), mix_reference([x, other], w))
        assert torch.equal(mix([other, x], w), mix_reference([other, x], w))
    for weights in (
        torch.rand(4, 2).as_subclass(Sub),
        torch.randint(3, (2,)),
        torch.rand(1, 2)[0, ::1].as_subclass(Sub),
    ):
        assert torch.equal(mix([x, x], weights), mix_reference([x, x], weights))
    assert calls == []


def test_bad_numbers_of_weights_are_refused_alike(calls):
    outputs = [torch.ones(4, 3)] * 2
    for function in (mix, mix_reference):
        with pytest.raises(ValueError, match="op weights of 3 samples do not fit outputs of 4"):
            function(outputs, torch.ones(3, 2))
        with pytest.raises(ValueError, match="weights for 2 outputs"):
            function(outputs, torch.ones(3))


@pytest.mark.parametrize("prescaled", [(), (0,), (4,), (1, 3), (0, 1, 2, 3), (3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_without_a_weight_count_as_they_are(calls, prescaled, dtype):
    outputs, weights, grad = inputs(dtype=dtype)
    weighted = [k for k in range(5) if k not in prescaled]
    every = torch.ones(5)
    every[weighted] = weights.detach()[weighted]
    every.requires_grad_()
    few = every.detach()[weighted].requires_grad_()
    expected = gradients(mix, outputs, every, grad)
    got = gradients(lambda outputs, weights: mix(outputs, weights, prescaled=prescaled), outputs, few, grad)
    assert len(calls) >= 4  # both natively, forward and backward
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(got[1], expected[1][weighted], rtol=0, atol=0)
    for ours, theirs in zip(got[2:], expected[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    reference = gradients(
        lambda outputs, weights: mix_reference(outputs, weights, prescaled=prescaled), outputs, few, grad
    )
    for ours, theirs in zip(got, reference, strict=True):
        # one rounding of each term and sum, or sums in another order
        torch.testing.assert_close(ours, theirs, rtol=0, atol=60 * torch.finfo(dtype).eps)


def test_gradgradcheck_with_outputs_without_a_weight(calls):
    outputs = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    weights = torch.rand(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, *x: mix(x, w, prescaled=(0, 2)), (weights, *outputs))
    assert torch.autograd.gradgradcheck(lambda w, *x: mix(x, w, prescaled=(0, 2)), (weights, *outputs))


def test_only_outputs_that_have_a_weight_are_kept():
    outputs, weights, _ = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        mix(outputs, weights.detach()[:2].requires_grad_(), prescaled=(0, 1, 3))
    assert {outputs[2].data_ptr(), outputs[4].data_ptr()} <= set(kept) and not {
        o.data_ptr() for o in outputs[:2]
    } & set(kept)


def test_weights_may_be_views(calls):
    outputs, _, grad = inputs(3)
    every = torch.rand(7, 4, 5, requires_grad=True)  # choices, samples, candidates
    row = every.unbind(0)[2][..., 1:4]
    (got,) = torch.autograd.grad(mix(outputs, row), every, grad)
    (other,) = torch.autograd.grad(mix_reference(outputs, row), every, grad)
    assert calls == ["forward", "backward"] and torch.allclose(got, other, rtol=1e-5)


def test_a_gradient_of_another_layout(calls):
    outputs, weights, _ = inputs(3, (4, 6, 5, 5))
    outputs = [laid_out(o.detach(), "channels_last").requires_grad_() for o in outputs]
    got = torch.autograd.grad(mix(outputs, weights).sum(), [weights, *outputs])  # expanded: all strides 0
    other = torch.autograd.grad(mix_reference(outputs, weights).sum(), [weights, *outputs])
    assert "backward" in calls and all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(got, other, strict=True))


def test_only_gradients_that_are_needed_are_computed_and_only_what_they_need_is_kept(calls):
    outputs, weights, grad = inputs(4, (10, 10))
    saved = []

    def save(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        mix(outputs, weights.detach()).backward(grad)
        assert saved == [4]
        mix([o.detach() for o in outputs], weights).backward(grad)
        assert saved == [4, 4, 100, 100, 100, 100]
    with torch.no_grad():
        assert mix(outputs, weights).grad_fn is None
    assert mix([o.detach() for o in outputs], weights.detach()).grad_fn is None
    assert calls == ["forward", "backward"] * 2 + ["forward"] * 2


def test_changing_an_output_in_place_before_the_backward_pass_is_an_error(calls):
    outputs, weights, grad = inputs(3)
    result = mix([o * 1 for o in outputs], weights)
    copies = [o * 1 for o in outputs]
    result = mix(copies, weights)
    copies[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward(grad)


def test_the_result_may_be_changed_in_place(calls):
    outputs, weights, grad = inputs(3)
    mix(outputs, weights).relu_().backward(grad)
    assert torch.allclose(weights.grad, torch.autograd.grad(mix_reference(outputs, weights).relu(), weights, grad)[0])


# ---- Under everything that watches or transforms --------------------------------------------------------------------


def test_compile_and_export_see_the_plain_expression(calls):
    outputs, weights, grad = inputs(3)
    compiled = torch.compile(lambda w, *x: mix(x, w), fullgraph=True, backend="aot_eager")
    got = gradients(lambda x, w: compiled(w, *x), outputs, weights, grad)
    assert all(
        torch.allclose(a, b, rtol=1e-6)
        for a, b in zip(got, gradients(mix_reference, outputs, weights, grad), strict=True)
    )

    class Net(nn.Module):
        def forward(self, w, x, y):
            return mix([x, y], w)

    for strict in (True, False):
        program = torch.export.export(
            Net(), (weights[:2].detach(), outputs[0].detach(), outputs[1].detach()), strict=strict
        )
        assert "aten.mul.Tensor" in str(program.graph)
    assert calls == []


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*")
def test_functorch_and_forward_mode_see_the_plain_expression(calls):
    outputs, weights, _ = inputs(2, (4, 3), torch.float64)
    x, y, w = (t.detach() for t in (*outputs, weights))

    def f(w, x, y):
        return mix([x, y], w)

    def plain(w, x, y):
        return mix_reference([x, y], w)

    transforms = {
        "vmap": lambda f: torch.func.vmap(f, (None, 0, 0))(w, x, y),
        "vmap over weights": lambda f: torch.func.vmap(f, (0, None, None))(torch.stack([w, 2 * w]), x, y),
        "jvp": lambda f: torch.func.jvp(f, (w, x, y), (w, y, x))[1],
        "grad": lambda f: torch.func.grad(lambda w: f(w, x, y).sum())(w),
        "jacrev": lambda f: torch.func.jacrev(f)(w, x, y),
        "hessian": lambda f: torch.func.hessian(lambda w: f(w, x, y).pow(2).sum())(w),
    }
    for transform in transforms.values():
        assert torch.allclose(transform(f), transform(plain))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, y)
        assert torch.allclose(forward_ad.unpack_dual(f(w, dual, y)).tangent, w[0] * y)
    assert calls == []


@pytest.mark.filterwarnings("ignore:.*vmap.*:UserWarning")
def test_batched_gradients(calls):
    outputs, weights, _ = inputs(2, (4, 3), torch.float64)
    grads = torch.randn(6, 4, 3, dtype=torch.float64)
    got = torch.autograd.grad(mix(outputs, weights), [weights, *outputs], grads, is_grads_batched=True)
    assert calls == ["forward"]
    other = torch.autograd.grad(mix_reference(outputs, weights), [weights, *outputs], grads, is_grads_batched=True)
    assert all(map(torch.allclose, got, other))
    # the same by vmap, over a forward outside of it
    result = mix(outputs, weights)
    again = torch.func.vmap(lambda g: torch.autograd.grad(result, [weights, *outputs], g, retain_graph=True))(grads)
    assert all(map(torch.allclose, got, again)) and calls == ["forward"] * 2


def test_modes_fake_tensors_and_tracers_see_the_plain_expression(calls, operations):
    outputs, weights, grad = inputs(2, (4, 3))

    with operations() as seen:
        mix(outputs, weights)
    assert seen.names.count("mul") == 2 and calls == []
    with torch._subclasses.FakeTensorMode() as mode:
        assert mix([mode.from_tensor(o) for o in outputs], mode.from_tensor(weights)).shape == (4, 3)
    assert mix([o.to("meta") for o in outputs], weights.to("meta")).shape == (4, 3)
    traced = make_fx(lambda w, x, y: mix([x, y], w))(weights.detach(), *[o.detach() for o in outputs])
    assert "mul" in traced.code and calls == []
    # a mode that is only there in the backward pass
    result = mix(outputs, weights)
    with operations() as seen:
        result.backward(grad)
    assert "mul" in seen.names and calls == ["forward"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*", "ignore::torch.jit.TracerWarning")
def test_jit_trace_sees_the_plain_expression(calls):
    x, w = torch.randn(4), torch.rand(2)
    traced = torch.jit.trace(lambda w, x: mix([x, x * 2], w), (w, x))
    assert torch.equal(traced(w * 3, x), mix_reference([x, x * 2], w * 3)) and "aten::mul" in str(traced.graph)


def test_checkpointing_and_inference_mode(calls):
    outputs, weights, grad = inputs(3)
    got = gradients(
        lambda x, w: checkpoint(lambda w, *x: mix(x, w), w, *x, use_reentrant=False), outputs, weights, grad
    )
    assert calls == ["forward", "forward", "backward"]
    assert torch.equal(got[0], mix(outputs, weights))
    with torch.inference_mode():
        assert torch.equal(mix(outputs, weights), got[0])


# ---- Threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, (16,)])
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_gradients_of_the_weights_are_the_same_for_any_number_of_threads_and_every_time(calls, weights, dtype):
    values = inputs(5, (16, 20011), dtype, weights)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(mix, *values))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_several_python_threads_at_once(calls):
    expected = [gradients(mix_reference, *inputs(3, (50, 50), seed=i)) for i in range(8)]
    wrong = []

    def work(i):
        for _ in range(20):
            got = gradients(mix, *inputs(3, (50, 50), seed=i))
            if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(got, expected[i], strict=True)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- The plain sum --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_sum_outputs(calls, k):
    outputs, _, grad = inputs(k, (4, 50), torch.float64)
    result = sum_outputs(outputs)
    assert torch.equal(result, sum(outputs[1:], outputs[0]))
    assert calls == (["forward"] if k > 2 else [])
    assert all(torch.equal(g, grad) for g in torch.autograd.grad(result, outputs, grad))
    assert torch.autograd.gradcheck(lambda *x: sum_outputs(x), outputs)
    assert torch.autograd.gradgradcheck(lambda *x: sum_outputs(x), outputs)
    some = [outputs[0].detach(), *outputs[1:]]
    assert k == 1 or sum_outputs(some).requires_grad
    with torch.no_grad():
        assert torch.equal(sum_outputs(outputs), result)


# ---- The kernels watch themselves -----------------------------------------------------------------------------------


def test_an_error_of_the_library_is_raised(calls, monkeypatch):
    library = replace(fused._live["cpu"], forward=lambda *args: 4)
    monkeypatch.setitem(fused._live, "cpu", library)
    with pytest.raises(RuntimeError, match=r"failed with error 4 of kernels/mix\.h"):
        mix(*inputs()[:2])


def test_self_check_passes_the_library_and_finds_wrong_ones(calls):
    library = fused._live["cpu"]
    assert fused.self_check(library, CPU) == ""

    def wrong_weights(code, k, n, groups, inner, *rest):
        return library.forward(code, k, n, 1, n, *rest)

    def no_weight_gradient(code, k, n, groups, inner, x, w, dy, dx, dw, *rest):
        error = library.backward(code, k, n, groups, inner, x, w, dy, dx, dw, *rest)
        ctypes.memset(dw, 0, 4)
        return error

    def next_gradient(code, k, n, groups, inner, x, w, dy, dx, *rest):
        turned = type(dx)(*dx[1:], dx[0])
        return library.backward(code, k, n, groups, inner, x, w, dy, turned, *rest)

    assert "the result is wrong" in fused.self_check(replace(library, forward=wrong_weights), CPU)
    assert "gradient of the weights is wrong" in fused.self_check(replace(library, backward=no_weight_gradient), CPU)
    assert "gradient of an output is wrong" in fused.self_check(replace(library, backward=next_gradient), CPU)
