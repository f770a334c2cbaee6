"""``setup.py``: what is built, what is said where it cannot be, and that the package is whole either way."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from nas.ops import native

ROOT = Path(__file__).parents[2]
NAME = f"_kernels_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
CUDA_NAME = NAME.replace("cpu", "cuda")

pytest.importorskip("setuptools")


@pytest.fixture
def tree(tmp_path):
    """What the build needs of the source tree."""
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    shutil.copy(ROOT / "setup.py", tmp_path)
    return tmp_path


def build(tree, **environment):
    """Runs build_ext; the standard error stream without the compiler's part."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", "out", "--build-temp", "temp"]
    environment = {**os.environ, "NAS_BUILD_CUDA": "0", **environment}
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    lines = [line for line in result.stderr.splitlines() if line.startswith("nas: ")]
    return result.returncode, lines, {path.name for path in (tree / "out").rglob("*") if path.is_file()}


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler_one_line_says_so_and_the_build_succeeds(tree):
    code, lines, files = build(tree, CC="/nonexistent", CXX="/nonexistent")
    assert code == 0 and not files
    assert len(lines) == 1 and lines[0].startswith("nas: no native CPU kernels, torch expressions are used there: ")
    assert "/nonexistent" in lines[0]


def test_without_any_program_on_the_path(tree):
    code, lines, files = build(tree, PATH="", CC="cc", CXX="c++")
    assert code == 0 and not files and len(lines) == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.slow
def test_the_library_is_built_with_openmp_and_loads(tree):
    code, lines, files = build(tree, CC="gcc", CXX="g++")
    assert (code, lines, files) == (0, [], {NAME})
    library = native.load(tree / "out" / "nas" / "ops" / NAME)
    assert "GCC" in library.build and "OpenMP" in library.build


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_a_compiler_without_openmp_builds_a_library_of_one_thread(tree):
    compiler = script(tree / "compiler", 'case "$*" in *-fopenmp*) exit 1 ;; esac; exec g++ "$@"')
    code, lines, files = build(tree, CC=compiler, CXX=compiler)
    assert (code, lines, files) == (0, [], {NAME})
    assert "one thread" in native.load(tree / "out" / "nas" / "ops" / NAME).build


NVCC = 'case "$*" in --list-gpu-arch) echo compute_70 compute_75 compute_90 ;; *) {} ;; esac'


def test_nvcc_gets_the_architectures_that_it_knows_and_static_libraries(tree):
    # writes its own command line into the library
    nvcc = 'for word; do if [ "$last" = -o ]; then out="$word"; fi; last="$word"; done; echo "$*" > "$out"'
    (tree / "bin").mkdir()
    script(tree / "bin" / "nvcc", NVCC.format(nvcc))
    code, lines, files = build(tree, CC="/nonexistent", CXX="/nonexistent", CUDA_HOME=str(tree), NAS_BUILD_CUDA="auto")
    assert code == 0 and CUDA_NAME in files and len(lines) == 1
    command = (tree / "out" / "nas" / "ops" / CUDA_NAME).read_text()
    assert "arch=compute_75,code=sm_75" in command and "arch=compute_90,code=sm_90" in command
    assert "arch=compute_90,code=compute_90" in command and "sm_70" not in command and "sm_100" not in command
    assert "-cudart static" in command


def test_an_nvcc_that_fails_does_not_break_the_build(tree):
    (tree / "bin").mkdir()
    script(tree / "bin" / "nvcc", NVCC.format("echo no such architecture >&2; exit 1"))
    code, lines, files = build(tree, CC="/nonexistent", CXX="/nonexistent", CUDA_HOME=str(tree), NAS_BUILD_CUDA="1")
    assert code == 0 and not files and len(lines) == 2
    assert lines[1].startswith("nas: no native CUDA kernels") and "nvcc failed: no such architecture" in lines[1]


def test_an_unknown_word_is_refused(tree):
    assert build(tree, NAS_BUILD_CUDA="yes")[0] != 0


def test_cuda_that_is_asked_for_without_nvcc_is_missed(tree):
    if Path("/usr/local/cuda/bin/nvcc").exists():
        pytest.skip("nvcc is where it is always looked for")
    code, lines, _ = build(
        tree, CC="/nonexistent", CXX="/nonexistent", PATH="", CUDA_HOME="", CUDA_PATH="", NAS_BUILD_CUDA="1"
    )
    assert code == 0 and lines[1] == "nas: no native CUDA kernels, torch expressions are used there: nvcc was not found"


@pytest.mark.slow
@pytest.mark.parametrize("has_compiler", [True, False])
def test_a_wheel_and_an_editable_install_in_a_fresh_environment(has_compiler, tmp_path):
    """With build isolation, without dependencies; needs a package index."""
    tree, environment = tmp_path / "tree", tmp_path / "venv"
    ignored = shutil.ignore_patterns(".git", "*.so", "build", "*.egg-info", "runs", ".*_cache")
    shutil.copytree(ROOT, tree, ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    variables = {**os.environ, "NAS_BUILD_CUDA": "0"}
    if not has_compiler:
        variables |= {"CC": "/nonexistent", "CXX": "/nonexistent"}
    subprocess.run([*pip, "wheel", "--no-deps", "-q", "-w", tmp_path, tree], check=True, env=variables)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "nas/ops/native.py" in names and (f"nas/ops/{NAME}" in names) == has_compiler
    assert not any(name.startswith(("kernels", "tests")) for name in names)
    shutil.rmtree(tree / "build", ignore_errors=True)
    subprocess.run([*pip, "install", "--no-deps", "-q", "-e", tree], check=True, env=variables)
    assert (tree / "nas" / "ops" / NAME).exists() == has_compiler
    done = subprocess.run([environment / "bin" / "nas", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gumbel-nas ")
    if has_compiler:
        assert ctypes.CDLL(str(tree / "nas" / "ops" / NAME)).nas_mix_abi() == native.ABI
