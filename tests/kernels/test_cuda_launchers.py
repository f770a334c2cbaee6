"""`nas.ops` on the CUDA launchers, built for emulation: what Python passes is what they expect."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.ops import fused, mix, mix_reference, native, sum_outputs, tap_conv, tap_conv_reference

KERNELS = Path(__file__).parents[2] / "kernels"
EMULATION = Path(__file__).parent / "emulation"
SMALL = [
    *(f"-DNAS_MIX_{name}" for name in ("THREADS=32", "REDUCE_THREADS=32", "TILES=4", "UNROLLED_K=0")),
    *("-DNAS_TAPS_WINDOW_BYTES=4096", "-DNAS_TAPS_BLOCKS=4"),
]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "kernels.so"
    options = ["-std=c++20", "-O1", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-pthread", "-shared", "-fPIC"]
    sources = [f"-I{EMULATION}", "-x", "c++", KERNELS / "mix.cu", KERNELS / "taps.cu"]
    subprocess.run(["g++", *options, *SMALL, *sources, "-o", path], check=True)
    return native.load(path)


@pytest.fixture
def emulated(library, monkeypatch):
    """Makes `nas.ops` take the emulated library for CPU tensors, and counts its calls."""
    calls = []

    def watched(name):
        return lambda *args: calls.append(name) or getattr(library, name)(*args)

    names = ("forward", "backward", "taps_forward", "taps_backward")
    watching = replace(library, **{name: watched(name) for name in names})
    monkeypatch.setitem(fused._live, "cpu", watching)
    return calls


def gradients(function, outputs, weights, wanted, grad):
    result = function(outputs, weights)
    return result, *torch.autograd.grad(result, wanted, grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [None, 0, 1])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_mix(emulated, dtype, dim, memory_format):
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(3, 8, 5, 5, generator=generator, dtype=dtype) for _ in range(3)]
    outputs = [x.contiguous(memory_format=memory_format).requires_grad_(k != 1) for k, x in enumerate(outputs)]
    shape = (3,) if dim is None else (outputs[0].shape[dim], 3)
    weights = torch.rand(shape, generator=generator, dtype=dtype, requires_grad=True)
    grad = torch.randn(3, 8, 5, 5, generator=generator, dtype=dtype)
    problem = (outputs, weights, [weights, outputs[0], outputs[2]], grad)
    got = gradients(lambda x, w: mix(x, w, dim=dim or 0), *problem)
    assert len(emulated) == 2
    expected = gradients(lambda x, w: mix_reference(x, w, dim=dim or 0), *problem)
    # at most 600 products of order one
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_plain_sum(emulated):
    outputs = list(torch.arange(4 * 77.0).view(4, 7, 11))
    assert torch.equal(sum_outputs(outputs), torch.stack(outputs).sum(0))
    assert len(emulated) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ((2, 3, 40), ((-3,), (0,), (0,), (7,))),
        ((2, 2, 9, 8), ((-1, -1), (0, 0), (2, 3), (9, 0))),
        ((1, 2, 34, 35), ((-33, 1), (0, 0), (30, -34))),
    ],
)
def test_taps(emulated, dtype, shape, offsets):
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, *shape, generator=generator, dtype=dtype)
    weights = torch.randn(shape[1], len(offsets), generator=generator, dtype=dtype)
    leaves = [x.requires_grad_(), weights.requires_grad_()]
    got = gradients(lambda x, w: tap_conv(x, w, offsets), *leaves, leaves, grad)
    assert emulated == ["taps_forward", "taps_backward"]
    expected = gradients(lambda x, w: tap_conv_reference(x, w, offsets), *leaves, leaves, grad)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_library_that_is_wrong_fails_the_check(library):
    assert not fused.self_check(library, torch.device("cpu"))

    def prescaled(*args):
        return library.backward(*args[:6], None, *args[7:])

    wrong = replace(library, backward=prescaled)
    assert "gradient" in fused.self_check(wrong, torch.device("cpu"))

    def last_tap_only(*args):
        return library.taps_forward(*args[:5], 1, *args[6:])

    wrong = replace(library, taps_forward=last_tap_only)
    assert "the result of taps" in fused.self_check(wrong, torch.device("cpu"))
