# SPDX-License-Identifier: Apache-2.0
"""The gateware of the link in simulation, as a line for the driver, and lines with faults."""

from __future__ import annotations

import ctypes
import random
from collections import Counter, deque
from functools import cache
from pathlib import Path

import numpy as np
from amaranth.back import verilog

from bitloop import boards, sim
from bitloop.boards.link.link import Link
from bitloop.boards.link.protocol import BAUD, Description
from bitloop.boards.link.serial_link import SerialLink
from bitloop.sim.build import Recipe, build

CLOCK = 75_000_000
MEMORY_BASE = 0x10000000
MEMORY_BYTES = 1 << 16
TIMEOUT_CYCLES = 4096
DESCRIPTION = Description("bench", CLOCK, MEMORY_BASE, MEMORY_BYTES)


@cache
def library(uart: bool) -> ctypes.CDLL:
    """The bench around a link, with or without a UART."""
    flags = "-fPIC -fvisibility=hidden -std=gnu++20"
    folders = [Path(str(package.__file__)).parent for package in (sim, boards)]
    flags += f" -I{folders[0]} -I{folders[1] / 'link'}"
    if uart:
        serial = SerialLink(DESCRIPTION, 32, BAUD, TIMEOUT_CYCLES)
        flags += f" -DBITLOOP_DIVISOR={serial.divisor}"
    top = serial if uart else Link(DESCRIPTION, 32, TIMEOUT_CYCLES)
    recipe = Recipe(
        name="the link's bench",
        top="link_bench",
        verilog=verilog.convert(top, name="link_bench", emit_src=False),
        sources=(Path(__file__).with_name("link_bench.cpp"),),
        headers=(folders[0] / "memory.h", folders[1] / "link" / "uart_line.h"),
        product="liblink.so",
        compiler_flags=flags,
        linker_flags="-shared",
    )
    found = ctypes.CDLL(str(build(recipe)))
    found.link_create.restype = ctypes.c_void_p
    found.link_create.argtypes = [ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    found.link_memory.restype = ctypes.POINTER(ctypes.c_uint8)
    found.link_cycles.restype = found.link_run.restype = ctypes.c_uint64
    found.link_writes.restype = ctypes.POINTER(ctypes.c_uint32)
    found.link_violation.restype = ctypes.c_char_p
    return found


class Board:
    """A simulated link with its registers and memory; time is counted in its clock cycles."""

    name = "bench"

    def __init__(self, uart: bool = False, latency: int = 10, pauses: float = 0.0) -> None:
        self._library = library(uart)
        handle = self._library.link_create(MEMORY_BYTES, latency, int(1024 * pauses))
        self._handle = ctypes.c_void_p(handle)
        self._buffer = (ctypes.c_uint8 * 65536)()

    def close(self) -> None:
        self._library.link_destroy(self._handle)

    def write(self, data: bytes) -> None:
        self._library.link_send(self._handle, data, ctypes.c_uint64(len(data)))

    def read(self, seconds: float) -> bytes:
        return self.run(int(seconds * CLOCK) + 1)

    def run(self, cycles: int, stop: bool = True) -> bytes:
        """Clock for so many cycles, or until bytes come; returns them."""
        count = self._library.link_run(
            self._handle,
            ctypes.c_uint64(cycles),
            self._buffer,
            ctypes.c_uint64(len(self._buffer)),
            int(stop),
        )
        return bytes(self._buffer[:count])

    def now(self) -> float:
        return self.cycles / CLOCK

    @property
    def cycles(self) -> int:
        return self._library.link_cycles(self._handle)

    @property
    def memory(self) -> np.ndarray:
        """All of it, shared."""
        return np.ctypeslib.as_array(self._library.link_memory(self._handle), (MEMORY_BYTES,))

    @property
    def register_writes(self) -> list[tuple[int, int]]:
        """(address, value) of every write that reached the register port."""
        count = ctypes.c_uint64()
        found = self._library.link_writes(self._handle, ctypes.byref(count))
        return [(found[2 * i], found[2 * i + 1]) for i in range(count.value)]

    def silence_registers(self, silent: bool) -> None:
        """Make the register port stop answering."""
        self._library.link_silence_registers(self._handle, int(silent))

    def set_fault(self, fault: int, address: int) -> None:
        """As `Simulation.set_fault`."""
        self._library.link_fault(self._handle, fault, ctypes.c_uint32(address))

    @property
    def violation(self) -> str:
        """The first rule of AXI that the link broke."""
        return self._library.link_violation(self._handle).decode()


class FaultyLine:
    """A line that loses, repeats, damages, cuts and delays frames, both ways."""

    KINDS = ("drop", "duplicate", "flip", "truncate", "lose a byte", "garbage", "delay")

    def __init__(self, line: Board, rate: float, seed: int, delay_seconds: float) -> None:
        """`rate`: share of the frames that something happens to, each way."""
        self.line = line
        self.name = line.name
        self.rate = rate
        self.rng = random.Random(seed)
        self.delay_seconds = delay_seconds
        self.happened: Counter[str] = Counter()
        self.frames = 0
        self._partial = [b"", b""]
        self._waiting: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())

    def now(self) -> float:
        return self.line.now()

    def write(self, data: bytes) -> None:
        self._pass(0, data)
        self._release()

    def read(self, seconds: float) -> bytes:
        end = self.now() + seconds
        while True:
            due = [queue[0][0] for queue in self._waiting if queue]
            wait = max(min([end, *due]) - self.now(), 0)
            self._pass(1, self.line.read(wait))
            found = self._release()
            if found or self.now() >= end:
                return found

    def _pass(self, way: int, data: bytes) -> None:
        """Frames one way through the faults, to when they arrive."""
        *frames, self._partial[way] = (self._partial[way] + data).split(b"\0")
        for frame in frames:
            self.frames += 1
            arrival = self.now()
            frame += b"\0"
            if self.rng.random() < self.rate:
                kind = self.rng.choice(self.KINDS)
                self.happened[kind] += 1
                if kind == "delay":
                    arrival += self.rng.random() * self.delay_seconds
                frame = self._damage(kind, frame)
            if self._waiting[way]:  # nothing overtakes on a line
                arrival = max(arrival, self._waiting[way][-1][0])
            self._waiting[way].append((arrival, frame))

    def _damage(self, kind: str, frame: bytes) -> bytes:
        rng, at = self.rng, self.rng.randrange(len(frame))
        if kind == "drop":
            return b""
        if kind == "duplicate":
            return frame + frame
        if kind == "flip":
            return frame[:at] + bytes([frame[at] ^ 1 << rng.randrange(8)]) + frame[at + 1 :]
        if kind == "truncate":
            return frame[:at]
        if kind == "lose a byte":
            return frame[:at] + frame[at + 1 :]
        if kind == "garbage":
            return rng.randbytes(rng.randrange(1, 1500)) + frame
        return frame

    def _release(self) -> bytes:
        """Hand on what has arrived; returns the host's."""
        found = b""
        for way, queue in enumerate(self._waiting):
            while queue and queue[0][0] <= self.now():
                frame = queue.popleft()[1]
                if way == 0:
                    self.line.write(frame)
                else:
                    found += frame
        return found
