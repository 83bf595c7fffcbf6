# SPDX-License-Identifier: Apache-2.0
"""The model as a shared library: built once for all cores and memories, cached by content."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from bitloop.errors import DeviceError
from bitloop.hw.registers import Cause

from ..cache import built_once, content_key
from ..toolchain import find_compiler
from .definitions import header
from .timeline import CAUSES, INSTRUCTIONS

Progress = Callable[[str, float], None]

PRODUCT = "libmodel.so"
FLAGS = ("-std=gnu++20", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
COUNTERS = 1 + len(Cause)

_HERE = Path(__file__).parent


_built: dict[tuple[str, ...], Path] = {}


def build_library(parameter_names: tuple[str, ...], progress: Progress | None = None) -> Path:
    """The library's path, compiled if the cache lacks it; raises `DeviceError` with the log.

    A process keeps to the first it got, whatever happens to the sources afterwards.
    """
    if parameter_names not in _built:
        _built[parameter_names] = _cached_library(parameter_names, progress)
    return _built[parameter_names]


def _cached_library(parameter_names: tuple[str, ...], progress: Progress | None) -> Path:
    compiler, version = find_compiler()
    definitions = header(parameter_names)
    sources = [*sorted(_HERE.glob("*.h")), _HERE / "model.cpp", _HERE.parent / "memory.h"]
    key = content_key(version, *FLAGS, definitions, *(path.read_text() for path in sources))

    def make(folder: Path) -> None:
        if progress is not None:
            progress("building the cycle model", 0.0)
        (folder / "definitions.h").write_text(definitions)
        _compile(compiler, folder)

    return built_once(f"cycle-model-{key}", PRODUCT, make)


def _compile(compiler: str, folder: Path) -> None:
    command = [compiler, *FLAGS, f"-I{folder}", "-o", str(folder / PRODUCT)]
    command.append(str(_HERE / "model.cpp"))
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if result.returncode:
        lines = result.stderr.splitlines(keepends=True)
        errors = [line for line in lines if "error" in line.lower()][:10] or lines[-20:]
        raise DeviceError(f"building the cycle model failed ({compiler}):\n{''.join(errors)}")


@cache
def open_library(path: Path) -> ctypes.CDLL:
    """The library with its functions' types."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(
            f"cannot open {path}: {error}; delete its folder to build it again"
        ) from None
    handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    integer, text = ctypes.c_int, ctypes.c_char_p
    numbers = ctypes.POINTER(ctypes.c_int32)
    signatures = {
        "create": (handle, (numbers, u32, u64, integer, integer, integer)),
        "create_board": (handle, (numbers, u32, u64, numbers)),
        "destroy": (None, (handle,)),
        "memory": (ctypes.c_void_p, (handle,)),
        "window": (None, (handle, integer, u32, u32)),
        "run": (text, (handle, u32, u32, u64, integer)),
        "counters": (None, (handle, ctypes.POINTER(u64))),
        "trace": (integer, (handle, ctypes.POINTER(u32), integer)),
        "record": (None, (handle, integer)),
        "instructions": (INSTRUCTIONS, (handle, ctypes.POINTER(u64))),
        "causes": (CAUSES, (handle, ctypes.POINTER(u64))),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"bitloop_model_{name}")
        function.restype, function.argtypes = result, arguments
    return library
