"""Finding and loading the native libraries of ``kernels/``."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch

ABI = 2
MAX_K = 64
MAX_TAPS = 128
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

_INT, _SIZE, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
_MIX = [_INT, _INT, _SIZE, _SIZE, _SIZE]
_TAPS = [_INT, _SIZE, _SIZE, _SIZE, _SIZE, _INT, _POINTER]
# name -> (type of the result, types of the arguments), in the order of Library
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "nas_mix_workspace": (_SIZE, _MIX),
    "nas_mix_forward": (_INT, [*_MIX, *[_POINTER] * 3, _INT, _POINTER]),
    "nas_mix_backward": (_INT, [*_MIX, *[_POINTER] * 6, _INT, _POINTER]),
    "nas_taps_workspace": (_SIZE, [*_TAPS, _INT, _INT]),
    "nas_taps_forward": (_INT, [*_TAPS, *[_POINTER] * 4, _INT, _POINTER]),
    "nas_taps_backward": (_INT, [*_TAPS, *[_POINTER] * 6, _INT, _POINTER]),
}


@dataclass(frozen=True, eq=False)
class Library:
    """One loaded library; its functions are those of ``kernels/mix.h`` and ``kernels/taps.h``.

    Attributes:
        path: The file.
        build: Compiler and options, as the library reports them.
        workspace: ``nas_mix_workspace``; the names of the other functions follow the same pattern.
    """

    path: Path
    build: str
    workspace: Callable[..., int]
    forward: Callable[..., int]
    backward: Callable[..., int]
    taps_workspace: Callable[..., int]
    taps_forward: Callable[..., int]
    taps_backward: Callable[..., int]


def mode() -> str:
    """The value of the environment variable NAS_KERNELS: ``auto`` (default), ``native`` or ``reference``.

    Raises:
        ValueError: It has another value.
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
        abi.restype, build.restype = ctypes.c_int, ctypes.c_char_p
        number = abi()
        functions = []
        for name, (result, arguments) in FUNCTIONS.items() if number == ABI else ():
            function = getattr(handle, name)
            function.restype, function.argtypes = result, arguments
            functions.append(function)
    except AttributeError as error:
        raise OSError(f"{path} is not a library of kernels: {error}") from None
    if number != ABI:
        raise OSError(f"{path} has ABI {number}, but this version of nas needs {ABI}: build it again")
    return Library(path, build().decode(errors="replace"), *functions)


def find(device_type: str) -> Library | str:
    """The library for a device type, or the reason why none is available. Warns about a library that exists but does not load."""
    if device_type not in ("cpu", "cuda"):
        return f"no native library for {device_type}"
    paths = [FOLDER / f"_kernels_{device_type}{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return f"{paths[0].name} was not built"
    try:
        return load(path)
    except OSError as error:
        text = str(error) if str(path) in str(error) else f"{path}: {error}"
        warnings.warn(f"a native library cannot be used; the reference expression is used: {text}", stacklevel=2)
        return text
