# SPDX-License-Identifier: Apache-2.0
"""Verilator's lint over the emitted Verilog, with the waivers of `lint.vlt`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bitloop.errors import DeviceError

from .toolchain import find_toolchain

WAIVERS = Path(__file__).parent / "lint.vlt"


def lint(verilog: Path, top: str = "bitloop_core") -> list[str]:
    """What `verilator --lint-only -Wall` says about a file beyond the waivers: warnings and errors,
    one string each, [] if clean. Raises `DeviceError` if Verilator is missing."""
    toolchain = find_toolchain()
    try:
        result = subprocess.run(
            [
                str(toolchain.verilator),
                "--lint-only",
                "-Wall",
                "-Wno-fatal",
                "--top-module",
                top,
                str(WAIVERS),
                str(verilog),
            ],
            env=toolchain.environment(),
            capture_output=True,
            text=True,
        )
    except OSError as error:
        raise DeviceError(f"cannot run {toolchain.verilator}: {error.strerror}") from None
    lines = (result.stdout + result.stderr).splitlines()
    found = [line for line in lines if line.startswith(("%Warning", "%Error"))]
    if result.returncode and not found:
        found = [f"%Error: verilator ended with {result.returncode}", *lines[-5:]]
    return found
