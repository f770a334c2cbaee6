"""The CUDA kernels on a device. No figure in this repository was measured on one: without a device all of this is skipped."""

import pytest
import torch

from nas.ops import mix, mix_reference, sum_outputs, tap_conv, tap_conv_reference
from nas.ops.calls import backward, forward
from nas.ops.fused import layout_of, live

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# shape, whether channels_last, the dimension that weights of two dimensions belong to (None: weights of one)
LAYOUTS = {
    "vector": ((1001,), False, None),
    "maps": ((8, 16, 32, 32), False, None),
    "channels_last": ((8, 16, 32, 32), True, None),
    "per sample": ((6, 16, 9, 9), False, 0),
    "per sample, odd": ((5, 3, 7, 7), False, 0),
    "per channel": ((8, 16, 32, 32), False, 1),
    "per channel, 7x7": ((8, 12, 7, 7), False, 1),
    "per channel, channels_last": ((8, 48, 14, 14), True, 1),
    "per channel, 5 channels_last": ((3, 5, 9, 9), True, 1),
    "large": ((64, 64, 64, 64), False, None),
}


@pytest.fixture(autouse=True)
def library():
    found = live(torch.device("cuda"))
    if found is None:
        pytest.skip("the CUDA library was not built")
    return found


def tensors(k, shape, dtype, *, channels_last=False, groups=None, seed=0, offset=0):
    """K outputs, a gradient of the result, and weights; `offset` elements past where an allocation starts."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.float64 if dtype is torch.float64 else torch.float32
    made = []
    for value in torch.randn(k + 1, *shape, generator=generator):
        value = value.to("cuda", dtype)
        value = value.contiguous(memory_format=torch.channels_last) if channels_last else value
        room = torch.empty(value.numel() + offset, dtype=dtype, device="cuda")
        made.append(room.as_strided(value.shape, value.stride(), offset).copy_(value))
    weights = torch.rand((groups, k) if groups else (k,), generator=generator).to("cuda", kind)
    return made[:-1], made[-1], weights


def gradients(function, outputs, grad, weights):
    outputs, weights = [x.detach().requires_grad_() for x in outputs], weights.detach().requires_grad_()
    result = function(outputs, weights)
    return result.detach(), *torch.autograd.grad(result, [weights, *outputs], grad)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("k", [1, 5, 8, 11])
@pytest.mark.parametrize("offset", [0, 1])
def test_agrees_with_float64(dtype, name, k, offset):
    shape, channels_last, dim = LAYOUTS[name]
    groups = None if dim is None else shape[dim]
    outputs, grad, weights = tensors(k, shape, dtype, channels_last=channels_last, groups=groups, offset=offset)
    dim = dim or 0
    assert layout_of(outputs, weights, dim) is not None, "the kernels do not take these"
    got = gradients(lambda x, w: mix(x, w, dim=dim), outputs, grad, weights)
    wide = [x.double() for x in outputs], grad.double(), weights.double()
    exact = gradients(lambda x, w: mix_reference(x, w, dim=dim), *wide)
    eps, acc_eps = torch.finfo(dtype).eps, torch.finfo(weights.dtype).eps
    for index, (value, true) in enumerate(zip(got, exact, strict=True)):
        # y and dx: one rounding to the dtype, and K in the accumulation type; dw: a sum in tiles, whose error grows with the root of
        # their number and is bounded here by that of all products
        magnitude = (grad.numel() / weights.numel() * k) ** 0.5 if index == 1 else k
        room = acc_eps * 8 * magnitude
        torch.testing.assert_close(value.double(), true, rtol=room if index == 1 else eps + room, atol=16 * room)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_plain_sum(dtype):
    outputs, _, _ = tensors(5, (4, 16, 9, 9), dtype)
    exact = torch.stack(outputs).double().sum(0)
    torch.testing.assert_close(sum_outputs(outputs).double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["maps", "per channel", "per channel, channels_last"])
def test_dw_has_the_same_bits_every_time_and_for_every_alignment(name):
    shape, channels_last, dim = LAYOUTS[name]
    groups = None if dim is None else shape[dim]
    seen = []
    for offset in (0, 0, 1, 3):
        options = {"channels_last": channels_last, "groups": groups, "offset": offset}
        outputs, grad, weights = tensors(5, shape, torch.float32, **options)
        seen.append(gradients(lambda x, w: mix(x, w, dim=dim or 0), outputs, grad, weights)[1])
    assert all(torch.equal(seen[0], other) for other in seen)


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    outputs, _, weights = tensors(5, (64, 64, 64, 64), torch.float32)
    expected = mix_reference(outputs, weights)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        outputs = [x * 2 for x in outputs]  # late, and on that stream
        result = mix(outputs, weights)
    stream.synchronize()
    torch.testing.assert_close(result, 2 * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_is_captured_in_a_graph():
    outputs, grad, weights = tensors(5, (8, 16, 32, 32), torch.float32)
    layout = layout_of(outputs, weights, 0)

    def step():
        return forward(outputs, weights, layout), *backward(grad, outputs, weights, layout, [True] * 5)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()  # loads the kernels
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    other_outputs, other_grad, other_weights = tensors(5, (8, 16, 32, 32), torch.float32, seed=1)
    for ours, other in zip([*outputs, grad, weights], [*other_outputs, other_grad, other_weights], strict=True):
        ours.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    for replayed, again in zip(captured, step(), strict=True):
        assert torch.equal(replayed, again)


@pytest.mark.gpu
@pytest.mark.slow
def test_more_than_two_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("needs 30 GB of device memory")
    n = 2**31 + 2**20 + 3
    x = torch.ones(n, dtype=torch.bfloat16, device="cuda")
    x[-1], x[2**31] = 3, 5
    weights = torch.tensor([0.5, 1.5], device="cuda")
    layout = layout_of([x, x], weights, 0)
    result = forward([x, x], weights, layout)
    assert result[0] == 2 and result[2**31] == 10 and result[-1] == 6 and result[2**31 + 1] == 2
    del result
    weight_grad, first, second = backward(x, [x, x], weights, layout, [True, False])
    assert first[-1] == 1.5 and second is None
    exact = n - 2 + 9 + 25
    # both: the outputs are the same tensor
    assert all(abs(value - exact) <= 1e-5 * exact for value in weight_grad.tolist())


# ---- Depthwise convolution with few taps --------------------------------------------------------------------------------

# shape, offsets: tiles of whole vectors and not, one and many a plane, taps that are too far apart for tiles, 128 of them
TAPS = {
    "sequences": ((8, 32, 1024), tuple((o,) for d in (1, 2, 4, 8, 16) for o in (-d, 0, d))),
    "maps": ((8, 16, 32, 32), tuple((i * d, j * d) for d in range(1, 6) for i in (-1, 0, 1) for j in (-1, 0, 1))),
    "odd maps": ((5, 3, 57, 71), ((-1, -2), (0, 0), (0, 3), (9, -9), (0, 71))),
    "7x7": ((64, 48, 7, 7), ((-1, -1), (0, 0), (3, 2))),
    "far apart": ((2, 3, 100, 90), ((-99, 3), (0, 0), (70, -80))),
    "long and far": ((2, 3, 20011), ((-9000,), (0,), (1,), (20010,))),
    "128 taps": ((4, 4, 24, 32), tuple((t % 11 - 5, t % 13 - 6) for t in range(128))),
}


def tap_problem(name, dtype, offset=0):
    shape, offsets = TAPS[name]
    (x,), grad, _ = tensors(1, shape, dtype, offset=offset)
    kind = torch.float64 if dtype is torch.float64 else torch.float32
    weights = torch.randn(shape[1], len(offsets), generator=torch.Generator().manual_seed(1)).to("cuda", kind)
    return x, weights, grad, offsets


def tap_gradients(function, x, weights, grad, offsets):
    leaves = [x.detach().requires_grad_(), weights.detach().requires_grad_()]
    result = function(*leaves, offsets)
    return result.detach(), *torch.autograd.grad(result, leaves, grad)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TAPS)
@pytest.mark.parametrize("offset", [0, 1])
def test_taps_agree_with_float64(dtype, name, offset):
    x, weights, grad, offsets = tap_problem(name, dtype, offset)
    got = tap_gradients(tap_conv, x, weights, grad, offsets)
    exact = tap_gradients(tap_conv_reference, x.double(), weights.double(), grad.double(), offsets)
    eps, acc_eps = torch.finfo(dtype).eps, torch.finfo(weights.dtype).eps
    for index, (value, true) in enumerate(zip(got, exact, strict=True)):
        # as for the mix: dw is a sum over all images, y and dx are sums of the taps, rounded once
        magnitude = (grad.numel() / x.shape[1]) ** 0.5 * 8 if index == 2 else len(offsets)
        room = acc_eps * 8 * magnitude
        torch.testing.assert_close(value.double(), true, rtol=room if index == 2 else eps + room, atol=16 * room)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TAPS)
def test_taps_have_the_same_bits_every_time_and_for_every_alignment(name):
    seen = [tap_gradients(tap_conv, *tap_problem(name, torch.float32, offset)) for offset in (0, 0, 1, 3)]
    assert all(torch.equal(a, b) for other in seen for a, b in zip(seen[0], other, strict=True))


@pytest.mark.gpu
def test_taps_are_captured_in_a_graph():
    x, weights, grad, offsets = tap_problem("maps", torch.float32)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        tap_gradients(tap_conv, x, weights, grad, offsets)  # loads the kernels
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = tap_gradients(tap_conv, x, weights, grad, offsets)
    x.mul_(2)
    weights.add_(1)
    graph.replay()
    torch.cuda.synchronize()
    for replayed, again in zip(captured, tap_gradients(tap_conv, x, weights, grad, offsets), strict=True):
        assert torch.equal(replayed, again)


@pytest.mark.gpu
@pytest.mark.slow
def test_taps_of_more_than_two_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GB of device memory")
    length = 2**31 + 2**20 + 3
    x = torch.zeros(1, 1, length, dtype=torch.bfloat16, device="cuda")
    x[..., -1], x[..., 2**31] = 3, 5
    weights = torch.tensor([[1.0, 2.0]], device="cuda", requires_grad=True)
    result = tap_conv(x, weights, ((0,), (1,)))
    assert result[0, 0, -2] == 6 and result[0, 0, -1] == 3 and result[0, 0, 2**31 - 1] == 10 and result[0, 0, 0] == 0
    (weight_grad,) = torch.autograd.grad(result, weights, x)
    assert weight_grad.tolist() == [[9 + 25, 0]]
