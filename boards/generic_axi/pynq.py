# SPDX-License-Identifier: Apache-2.0
"""The core on a board that runs Linux beside it (PYNQ, or any with its registers mapped): a `Bus`
for `bitloop.devices.driver`.

    bus, start = open_pynq("design.bit", "bitloop_core_n8_0", 16 << 20)
    driver = Driver(bus, preset("n8"))
    driver.load(binary, start)
    outputs, profile = driver.run({"input": images})
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any, Protocol

from bitloop.errors import DeviceError
from bitloop.hw.registers import ADDRESS, ADDRESS_BITS, Status

POLL_SECONDS = 20e-6


class Registers(Protocol):
    """The register port: `pynq.MMIO`, or `MappedRegisters`."""

    def read(self, offset: int) -> int:
        """32-bit register at a byte offset."""

    def write(self, offset: int, value: int) -> None:
        """Write a 32-bit register."""


class MappedRegisters:
    """Registers mapped from a device file: `/dev/uio0`, or `/dev/mem` at an offset."""

    def __init__(self, path: str | Path, offset: int = 0) -> None:
        """`offset`: of the registers in the file, a multiple of the page size. Raises `DeviceError`
        if the file cannot be mapped."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_SYNC)
            try:
                self._map = mmap.mmap(handle, 1 << ADDRESS_BITS, offset=offset)
            finally:
                os.close(handle)
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"{path}: cannot map its registers at 0x{offset:X}: {error}; are you root, and is "
                "the offset the core's?"
            ) from None
        self._words = memoryview(self._map).cast("I")

    def read(self, offset: int) -> int:
        return self._words[offset // 4]

    def write(self, offset: int, value: int) -> None:
        self._words[offset // 4] = value & 0xFFFFFFFF


class MappedBus:
    """A `bitloop.devices.driver.Bus` over registers and a buffer that core and host both see.

    `buffer` is one of `pynq.allocate` (bytes): it knows its `device_address`, and `flush` and
    `invalidate` keep the host's caches in step. `clock_hertz` turns cycles into time.
    """

    def __init__(self, registers: Registers, buffer: Any, clock_hertz: float = 100e6) -> None:
        self.registers = registers
        self.buffer = buffer
        self.clock_hertz = clock_hertz
        self.start = int(buffer.device_address)

    def read_register(self, address: int) -> int:
        return int(self.registers.read(address))

    def write_register(self, address: int, value: int) -> None:
        self.registers.write(address, value)

    def read_memory(self, address: int, size: int) -> bytes:
        first = self._place(address, size)
        self.buffer.invalidate()
        return bytes(memoryview(self.buffer)[first : first + size])

    def write_memory(self, address: int, data: bytes) -> None:
        first = self._place(address, len(data))
        memoryview(self.buffer)[first : first + len(data)] = data
        self.buffer.flush()

    def wait(self, max_cycles: int) -> bool:
        deadline = time.monotonic() + max_cycles / self.clock_hertz
        while self.read_register(ADDRESS["status"]) & Status.BUSY:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _place(self, address: int, size: int) -> int:
        """Of an address in the buffer; raises `DeviceError` beyond it."""
        first = address - self.start
        if first < 0 or first + size > len(self.buffer):
            raise DeviceError(
                f"{size} bytes at 0x{address:X} are not in the buffer of {len(self.buffer)} bytes "
                f"at 0x{self.start:X}; allocate a larger one"
            )
        return first


def open_pynq(
    bitstream: str, core: str, size: int, clock_hertz: float | None = None
) -> tuple[MappedBus, int]:
    """Load a PYNQ overlay, allocate `size` bytes for the windows; returns the bus and the address
    to give to `Driver.load`. `core` is the instance's name in the block design; `clock_hertz` of
    its clock, FCLK 0's if not given. Raises `DeviceError` where PYNQ is missing or has no such
    core."""
    try:
        import pynq  # type: ignore[import-not-found]
    except ImportError:
        raise DeviceError(
            "the pynq package is not installed; this runs on a board with PYNQ's image"
        ) from None
    overlay = pynq.Overlay(bitstream)
    if core not in overlay.ip_dict:
        raise DeviceError(f"{bitstream} has no {core}; it has {', '.join(overlay.ip_dict)}")
    address = overlay.ip_dict[core]["phys_addr"]
    registers = pynq.MMIO(address, 1 << ADDRESS_BITS)
    buffer = pynq.allocate(shape=(size,), dtype="u1")
    hertz = clock_hertz or pynq.Clocks.fclk0_mhz * 1e6
    bus = MappedBus(registers, buffer, hertz)
    return bus, bus.start


def identify(registers: Registers) -> str:
    """The core's fingerprint, as `bitloop presets` shows it."""
    low = struct.pack(">I", registers.read(ADDRESS["fingerprint_low"]))
    high = struct.pack(">I", registers.read(ADDRESS["fingerprint_high"]))
    return (high + low).hex()
