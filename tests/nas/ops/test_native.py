"""Finding, loading and refusing native libraries, and what the environment asks for."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas.ops import fused, mix, mix_reference, native

CPU = torch.device("cpu")
SUFFIX = native.EXTENSION_SUFFIXES[0]
NAMES = tuple(native.FUNCTIONS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that libraries are looked for in, and no memory of earlier ones."""
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setattr(fused, "_live", {})
    monkeypatch.setattr(fused, "_why_not", {})
    monkeypatch.delenv(native.VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def built():
    """The library that is there."""
    found = native.find("cpu")
    if isinstance(found, str):
        pytest.skip(f"no native library: {found}")
    return found


def compiled(path, abi=native.ABI, names=NAMES):
    """A library whose functions do nothing."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    source = path.with_suffix(".cpp")
    functions = "".join(f"long {name}() {{ return 0; }} " for name in names)
    source.write_text(
        f'extern "C" {{ int nas_mix_abi() {{ return {abi}; }} const char* nas_mix_build() {{ return "test"; }} {functions} }}'
    )
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", path], check=True)
    return path


def mixes():
    """Whether mix works as the reference does."""
    outputs, weights = [torch.ones(3), torch.full((3,), 2.0)], torch.tensor([1.0, 10.0])
    return torch.equal(mix(outputs, weights), mix_reference(outputs, weights))


def test_without_a_library_the_reference_is_used_silently(folder):
    assert mixes()
    assert fused.describe(CPU) == f"reference (torch expressions): _kernels_cpu{SUFFIX} was not built"


def test_native_without_a_library_is_an_error(folder, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, "native")
    with pytest.raises(ValueError, match=r"NAS_KERNELS=native, but .* _kernels_cpu.* was not built"):
        mixes()
    assert fused.describe(CPU).startswith("none: NAS_KERNELS=native")


def test_an_unknown_word_is_an_error(folder, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, "fast")
    with pytest.raises(ValueError, match="NAS_KERNELS must be one of auto, native, reference, got 'fast'"):
        mixes()


def test_a_damaged_library_is_refused_once_with_its_path(folder):
    path = folder / f"_kernels_cpu{SUFFIX}"
    path.write_bytes(b"\x7fELF" + bytes(60))
    with pytest.warns(UserWarning, match="cannot be used; the reference expression is used") as caught:
        assert mixes()
    assert len(caught) == 1 and str(path) in str(caught[0].message)
    assert mixes()  # no second warning, which would be an error
    assert str(path) in fused.describe(CPU)


def test_a_library_with_another_abi_is_refused(folder):
    compiled(folder / f"_kernels_cpu{SUFFIX}", abi=native.ABI + 1)
    with pytest.warns(
        UserWarning, match=rf"has ABI {native.ABI + 1}, but this version of nas needs {native.ABI}: build it again"
    ):
        assert mixes()


def test_a_library_that_lacks_a_function_is_refused(folder, monkeypatch):
    compiled(folder / f"_kernels_cpu{SUFFIX}", names=[name for name in NAMES if name != "nas_taps_backward"])
    with pytest.warns(UserWarning, match=r"is not a library of kernels: .*nas_taps_backward"):
        assert mixes()
    monkeypatch.setenv(native.VARIABLE, "native")
    fused._live.clear()
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match="NAS_KERNELS=native, but the native library cannot be used"),
    ):
        mixes()


def test_the_abi_number_is_that_of_the_header():
    folder = Path(__file__).parents[3] / "kernels"
    text = (folder / "mix.h").read_text() + (folder / "taps.h").read_text()
    for name, number in (("MIX_ABI", native.ABI), ("MIX_MAX_K", native.MAX_K), ("TAPS_MAX", native.MAX_TAPS)):
        assert f"#define NAS_{name} {number}\n" in text


def test_the_library_says_how_it_was_built(built):
    library = ctypes.CDLL(str(built.path))
    assert library.nas_mix_abi() == native.ABI
    assert built.build.startswith(("GCC ", "clang "))


def run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    return result.stdout.strip() or result.stderr.strip().splitlines()[-1]


WHICH = (
    "import torch; from nas.ops import fused, mix\n"
    "y = mix([torch.ones(3, requires_grad=True)] * 2, torch.ones(2)); print(y.grad_fn.name(), fused.describe(torch.device('cpu')))"
)


def test_the_environment_chooses(built):
    # a fresh process each: the choice is made once
    assert run(WHICH, NAS_KERNELS="native").startswith(f"_MixBackward native: {built.path.name}, ")
    assert run(WHICH, NAS_KERNELS="").startswith("_MixBackward native")
    assert run(WHICH, NAS_KERNELS="reference") == "AddBackward0 reference (torch expressions): NAS_KERNELS=reference"
    assert "ValueError: NAS_KERNELS must be one of" in run(WHICH, NAS_KERNELS="no")


def test_the_thread_pool_is_torchs_own(built):
    if "OpenMP" not in built.build or not Path("/proc/self/maps").exists():
        pytest.skip("no OpenMP, or no Linux")
    code = (
        WHICH
        + "\nprint(len({line.split()[-1] for line in open('/proc/self/maps') if 'gomp' in line or 'iomp' in line}))"
    )
    assert run(code, NAS_KERNELS="native").splitlines()[-1] == "1"


# ---- The way of CUDA, as far as it goes without a device -----------------------------------------------------------------------------


def test_a_cuda_library_that_fails_its_self_check_is_not_used(built, folder, monkeypatch):
    monkeypatch.setattr(native, "find", lambda kind: built)
    monkeypatch.setattr(fused, "self_check", lambda library, device: "the result is wrong for torch.float16")
    device = torch.device("cuda")
    with pytest.warns(UserWarning, match=r"the result is wrong for torch\.float16; the reference expression is used"):
        assert fused.live(device) is None
    assert fused.live(device) is None  # once
    assert fused.describe(device) == "reference (torch expressions): the result is wrong for torch.float16"


def test_a_cuda_library_that_passes_is_used_and_none_is_chosen_while_a_graph_is_captured(built, folder, monkeypatch):
    monkeypatch.setattr(native, "find", lambda kind: built)
    monkeypatch.setattr(fused, "self_check", lambda library, device: "")
    device = torch.device("cuda")
    with monkeypatch.context() as context:
        context.setattr(torch.cuda, "is_initialized", lambda: True)
        context.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert fused.live(device) is None
    assert fused.live(device) is built


def test_other_devices_have_none_and_need_none(folder, monkeypatch):
    assert fused.live(torch.device("meta")) is None
    monkeypatch.setenv(native.VARIABLE, "native")
    assert fused.live(torch.device("xpu")) is None


@pytest.mark.gpu
def test_the_cuda_library_passes_its_self_check():
    library = native.find("cuda")
    if isinstance(library, str):
        pytest.skip(f"no native library: {library}")
    assert fused.self_check(library, torch.device("cuda")) == ""
