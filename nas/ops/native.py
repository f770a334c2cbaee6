"""Finding and loading the native libraries of ``kernels/``."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

ABI = 1
MAX_K = 64
VARIABLE = "NAS_KERNELS"
MODES = ("auto", "native", "reference")
FOLDER = Path(__file__).parent

# dtype -> (its code in mix.h, the accumulation type)
DTYPES = {
    torch.float32: (0, torch.float32),
    torch.float64: (1, torch.float64),
    torch.float16: (2, torch.float32),
    torch.bfloat16: (3, torch.float32),
}


@dataclass(frozen=True, eq=False)
class Library:
    """One loaded library; its functions are those of ``kernels/mix.h``.

    Attributes:
        path: The file.
        build: Compiler and options, in the library's own words.
        workspace: ``nas_mix_workspace``.
        forward: ``nas_mix_forward``.
        backward: ``nas_mix_backward``.
    """

    path: Path
    build: str
    workspace: Callable[..., int]
    forward: Callable[..., int]
    backward: Callable[..., int]


def mode() -> str:
    """What the environment variable NAS_KERNELS asks for: ``auto`` (default), ``native`` or ``reference``.

    Raises:
        ValueError: Any other word.
    """
    word = os.environ.get(VARIABLE, "").strip().lower() or "auto"
    if word not in MODES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(MODES)}, got {word!r}")
    return word


def load(path: Path) -> Library:
    """Opens a library and checks its ABI number.

    Raises:
        OSError: It cannot be opened, lacks a function, or has another ABI number.
    """
    # RTLD_LOCAL, the default: both libraries have the same function names
    handle = ctypes.CDLL(str(path))
    try:
        abi, build = handle.nas_mix_abi, handle.nas_mix_build
        workspace, forward, backward = handle.nas_mix_workspace, handle.nas_mix_forward, handle.nas_mix_backward
    except AttributeError as error:
        raise OSError(f"{path} is not a mixing library: {error}") from None
    abi.restype = ctypes.c_int
    if (number := abi()) != ABI:
        raise OSError(f"{path} has ABI {number}, but this version of nas needs {ABI}: build it again")
    build.restype = ctypes.c_char_p
    sizes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]
    pointer = ctypes.c_void_p
    workspace.argtypes, workspace.restype = sizes, ctypes.c_int64
    forward.argtypes, forward.restype = [*sizes, pointer, pointer, pointer, ctypes.c_int, pointer], ctypes.c_int
    backward.argtypes = [*sizes, pointer, pointer, pointer, pointer, pointer, pointer, ctypes.c_int, pointer]
    backward.restype = ctypes.c_int
    return Library(path, build().decode(errors="replace"), workspace, forward, backward)


def find(device_type: str) -> Library | str:
    """The library for a type of device, or why there is none.

    A library that is there and cannot be used is also warned of.
    """
    if device_type not in ("cpu", "cuda"):
        return f"there is none for {device_type}"
    paths = [FOLDER / f"_mix_{device_type}{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return f"{paths[0].name} was not built"
    try:
        return load(path)
    except OSError as error:
        text = str(error) if str(path) in str(error) else f"{path}: {error}"
        warnings.warn(f"a native library cannot be used, the reference expression is: {text}", stacklevel=2)
        return text
