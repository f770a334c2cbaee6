"""Builds the native libraries of ``kernels/``; everything else is in pyproject.toml.

Both libraries are optional: where one cannot be built, a line says so, the package installs, and torch expressions are used. They include
no torch headers, so that nothing but a compiler is needed, and have no module initialisation: ``nas/ops/native.py`` loads them with ctypes.

Environment: NAS_BUILD_CUDA=auto (default: where nvcc is found), 1 (say so where it is not) or 0 (never); CXX, CFLAGS and LDFLAGS as usual.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CPU, CUDA = "nas.ops._kernels_cpu", "nas.ops._kernels_cuda"
# -ffp-contract=off: no fused multiply-adds, so that every processor gives the same bits
CPU_OPTIONS = ["-std=c++17", "-O2", "-g0", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"]
CUDA_OPTIONS = [
    "-std=c++17",
    "-O3",
    "--threads",
    "0",
    "-shared",
    "-cudart",
    "static",
    "-Xcompiler",
    "-fPIC,-fvisibility=hidden",
]
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")


def find_nvcc() -> str | None:
    """Path of nvcc: CUDA_HOME or CUDA_PATH, then PATH, then where it usually is."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [os.path.join(home, "bin", "nvcc") for home in homes if home]
    candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((path for path in map(shutil.which, candidates) if path), None)


def architecture_options(nvcc: str) -> list[str]:
    """Code for every architecture of ours that this nvcc knows, and PTX of the newest for those to come."""
    known = subprocess.run([nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True).stdout
    numbers = [number for number in ARCHITECTURES if f"compute_{number}" in known.split()]
    options = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    return [*options, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


def wants_cuda() -> bool:
    """Whether to try."""
    word = os.environ.get("NAS_BUILD_CUDA", "").strip().lower() or "auto"
    if word not in ("auto", "0", "1"):
        raise SystemExit(f"NAS_BUILD_CUDA must be auto, 0 or 1, got {word!r}")
    return word == "1" or (word == "auto" and find_nvcc() is not None)


class BuildLibraries(build_ext):
    """Builds what can be built."""

    def build_extension(self, ext: Extension) -> None:
        """One library, or one line that says why not."""
        build = self.build_cpu if ext.name == CPU else self.build_cuda
        try:
            build(ext)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            device = "CPU" if ext.name == CPU else "CUDA"
            print(f"nas: no native {device} kernels, torch expressions are used there: {reason}", file=sys.stderr)

    def build_cpu(self, ext: Extension) -> None:
        """With OpenMP, or without where the compiler has none."""
        ext.extra_compile_args, ext.extra_link_args = [*CPU_OPTIONS, "-fopenmp"], ["-fopenmp"]
        try:
            super().build_extension(ext)
        except Exception:
            ext.extra_compile_args, ext.extra_link_args = CPU_OPTIONS, []
            super().build_extension(ext)

    def build_cuda(self, ext: Extension) -> None:
        """One fat library."""
        nvcc = find_nvcc()
        if nvcc is None:
            raise FileNotFoundError("nvcc was not found")
        target = Path(self.get_ext_fullpath(ext.name))
        sources = [*ext.sources, *ext.depends]
        if not self.force and target.exists() and target.stat().st_mtime > max(map(os.path.getmtime, sources)):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [nvcc, *CUDA_OPTIONS, *architecture_options(nvcc), "-o", str(target), *ext.sources]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            target.unlink(missing_ok=True)
            raise RuntimeError(f"nvcc failed: {result.stderr.strip()[-500:]}")


KERNELS = Path("kernels")
HEADERS = [str(path) for path in sorted(KERNELS.glob("*.h"))]
CUDA_HEADERS = [*HEADERS, *(str(path) for path in sorted(KERNELS.glob("*.cuh")))]
LIBRARIES = [Extension(CPU, ["kernels/mix.cpp", "kernels/taps.cpp"], depends=HEADERS, language="c++", optional=True)]
if wants_cuda():
    LIBRARIES.append(Extension(CUDA, ["kernels/mix.cu", "kernels/taps.cu"], depends=CUDA_HEADERS, optional=True))

setup(ext_modules=LIBRARIES, cmdclass={"build_ext": BuildLibraries})
