"""What nvcc makes of the CUDA sources: registers, spills, 128-bit accesses, and a library that loads without a GPU."""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from nas.ops import native

KERNELS = Path(__file__).parents[2] / "kernels"
ARCHITECTURES = [75, 80, 90, 100, *(pytest.param(number, marks=pytest.mark.slow) for number in (86, 89, 120))]
TYPES = {"f": "float", "d": "double", "NS_4HalfE": "half", "NS_8BFloat16E": "bfloat16"}
NVCC = ("nvcc", "-std=c++17", "-O3")
SOURCES = (KERNELS / "mix.cu", KERNELS / "taps.cu")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")]


def kernel(symbol):
    """``backward_tiles<float, 5, 1>`` of its mangled name."""
    length, rest = re.match(r"_ZN7nas_mix(\d+)(\w+)$", symbol).groups()
    name, arguments = rest[: int(length)], rest[int(length) :]
    types = "|".join(TYPES)
    words = re.match(rf"I({types})((?:L[ib]\d+E)*)E", arguments)
    numbers = re.findall(r"L[ib](\d+)E", words[2])
    return f"{name}<{', '.join([TYPES[words[1]], *numbers])}>"


def resources(report):
    """What ``-Xptxas -v`` says: kernel -> (registers, bytes of stack, bytes of spills)."""
    found = {}
    memory = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    entry = rf"Compiling entry function '(\w+)'.*?{memory}.*?Used (\d+) registers"
    for symbol, stack, stores, loads, registers in re.findall(entry, report, re.DOTALL):
        found[kernel(symbol)] = (int(registers), int(stack), int(stores) + int(loads))
    return found


def disassembler():
    """``cuobjdump`` and an environment in which it finds nvdisasm: the toolkit's, or what comes with triton; or None."""
    folders = [os.environ["PATH"]]
    if triton := importlib.util.find_spec("triton"):
        folders.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    path = os.pathsep.join(folders)
    if shutil.which("cuobjdump", path=path) and shutil.which("nvdisasm", path=path):
        return shutil.which("cuobjdump", path=path), {**os.environ, "PATH": path}
    return None


def accesses(architecture, source, cubin, ptx):
    """kernel -> its instructions that touch memory, from SASS, or else from PTX."""
    if found := disassembler():
        command, environment = found
        text = subprocess.check_output([command, "-sass", cubin], text=True, env=environment)
        parts = re.split(r"Function : (\w+)", text)[1:]
        instruction = r"\b(?:LDG|STG|LD|ST|LDL|STL|LDS|STS)\b[.\w]*"
    else:
        command = [*NVCC, f"-arch=sm_{architecture}", "-ptx", source, "-o", ptx]
        subprocess.run(command, check=True)
        parts = re.split(r"\.entry (\w+)", ptx.read_text())[1:]
        instruction = r"\b(?:ld|st)\.[.\w]*"
    return {kernel(name): re.findall(instruction, body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


@pytest.fixture(scope="module")
def compiled(request, tmp_path_factory):
    """architecture -> (resources, accesses) for the selected tests, two compilers at a time."""
    items = [item for item in request.session.items if item.path == Path(__file__) and hasattr(item, "callspec")]
    numbers = sorted({item.callspec.params["architecture"] for item in items})
    folder = tmp_path_factory.mktemp("cubins")

    def build(architecture):
        used, touched = {}, {}
        for source in SOURCES:
            cubin, ptx = (folder / f"{source.stem}{architecture}.{suffix}" for suffix in ("cubin", "ptx"))
            command = [*NVCC, f"-arch=sm_{architecture}", "-Xptxas", "-v", "-cubin", source, "-o", cubin]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "warning" not in done.stderr, done.stderr
            used |= resources(done.stderr)
            touched |= accesses(architecture, source, cubin, ptx)
        return used, touched

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(numbers, pool.map(build, numbers), strict=True))


def vector_kernels():
    """Kernel -> bytes of its wide accesses, loads and stores that it has at least."""
    wide = {}
    for name in TYPES.values():
        for k in range(5 if name == "double" else 9):  # 0: any K, four at a time
            wide[f"forward_uniform<{name}, {k}>"] = (16, k or 4, 1)
            wide[f"backward_tiles<{name}, {k}, 1>"] = (16, (k or 4) + 1, k or 4)
        columns, size = (2, 8) if name == "double" else (4, 4) if name == "float" else (4, 2)
        wide[f"forward_mixed<{name}>"] = (columns * size, 4, 1)
        wide[f"backward_columns<{name}, {columns}>"] = (columns * size, 5, 4)
        wide[f"taps_forward<{name}, 1>"] = (16, 1, 1)
        wide[f"taps_weight<{name}, 1>"] = (16, 2, 0)
    return wide


def scalar_kernels():
    shapes = (
        *("forward_scalar<{}>", "backward_tiles<{}, 0, 0>", "backward_columns<{}, 1>"),
        *("taps_forward<{}, 0>", "taps_forward_direct<{}>", "taps_weight<{}, 0>", "taps_weight_direct<{}>"),
    )
    return {*(shape.format(name) for shape in shapes for name in TYPES.values()), "reduce<float>", "reduce<double>"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_spills_no_stack_and_at_most_64_registers(compiled, architecture):
    found, _ = compiled[architecture]
    assert set(found) == set(vector_kernels()) | scalar_kernels()
    for name, (registers, stack, spills) in found.items():
        assert registers <= 64 and (stack, spills) == (0, 0), f"{name}: {registers} registers, bytes {stack}, {spills}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_loaded_and_stored_at_once(compiled, architecture):
    _, found = compiled[architecture]
    for name, (width, loads, stores) in vector_kernels().items():
        if width == 16:
            wide = [word for word in found[name] if re.search(r"\.128\b|\.v4\.[bfu]32|\.v2\.[bfu]64", word)]
        else:
            wide = [word for word in found[name] if re.search(r"\.64\b|\.v2\.[bfu]32|\.v4\.[bu]16", word)]
        loaded = [word for word in wide if re.match(r"LDG|ld\.global", word)]
        stored = [word for word in wide if re.match(r"STG|st\.global", word)]
        assert len(loaded) >= loads and len(stored) >= stores, f"{name}: {found[name]}"
    for name, words in found.items():
        assert not [word for word in words if re.match(r"LDL|STL|[ls][dt]\.local", word)], f"{name} uses local memory"


def test_the_reports_are_read_as_nvcc_writes_them():
    report = """ptxas info    : Compiling entry function '_ZN7nas_mix14backward_tilesINS_4HalfELi5ELb1EEEvNS_12BackwardArgsE' for 'sm_80'
ptxas info    : Function properties for _ZN7nas_mix14backward_tilesINS_4HalfELi5ELb1EEEvNS_12BackwardArgsE
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 72 registers, used 0 barriers, 8 bytes cumulative stack size, 1632 bytes cmem[0]
"""
    assert resources(report) == {"backward_tiles<half, 5, 1>": (72, 8, 16)}
    assert kernel("_ZN7nas_mix6reduceIdEEvNS_10ReduceArgsE") == "reduce<double>"


def test_the_library_loads_and_answers_without_a_device(tmp_path):
    path = tmp_path / "kernels.so"
    command = [*NVCC, "-arch=sm_80", "-shared", "-cudart", "static", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
    subprocess.run([*command, *SOURCES, "-o", path], check=True)
    if readelf := shutil.which("readelf"):
        needed = re.findall(r"NEEDED.*\[(.*)\]", subprocess.check_output([readelf, "-d", path], text=True))
        assert not [name for name in needed if re.search("cuda|torch|nv", name)], needed
    library = ctypes.CDLL(str(path))
    library.nas_mix_build.restype = ctypes.c_char_p
    library.nas_mix_workspace.restype = ctypes.c_int64
    sizes = [ctypes.c_int64(size) for size in (1000, 1, 1000)]
    assert library.nas_mix_abi() == native.ABI
    assert re.fullmatch(rb"nvcc \d+\.\d+, architectures 800", library.nas_mix_build())
    assert library.nas_mix_workspace(0, 2, *sizes) == 2 * 8 * 4  # 250 vectors are 8 tiles of a warp
    assert library.nas_mix_workspace(9, 2, *sizes) == -1
    library.nas_taps_workspace.restype = ctypes.c_int64
    offsets = (ctypes.c_int64 * 6)(0, -1, 0, 0, 0, 1)
    shape = [ctypes.c_int64(size) for size in (8, 2, 1, 1000)]
    assert library.nas_taps_workspace(0, *shape, 3, offsets, 1, 1) == 2 * 3 * 8 * 4  # 8 tiles are as many chunks
    assert library.nas_taps_workspace(0, *shape, 129, offsets, 1, 1) == -2
    if not torch.cuda.is_available():
        memory = (ctypes.c_char * 8000)()
        x = (ctypes.c_void_p * 1)(ctypes.addressof(memory))
        assert library.nas_mix_forward(0, 1, *sizes, x, None, memory, 1, None) == 5  # NAS_MIX_DEVICE, and no crash
        one = [ctypes.c_int64(1)] * 4
        assert library.nas_taps_forward(0, *one, 3, offsets, memory, memory, memory, None, 1, None) == 5
