# SPDX-License-Identifier: Apache-2.0
"""Host driver of the core: the same for the simulated RTL and for boards.

A `Bus` reaches the core's registers and its memory; everything else (window placement, start,
counters, trace, error codes) is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import Window
from bitloop.hw.registers import ADDRESS, IDENTITY, VERSION, Cause, ErrorCode, Status

from ..binary import Binary, Port, Span
from ..errors import DataError, DeviceError
from .interface import Profile

WINDOW_ALIGNMENT = 4096
"""Windows start at multiples of this, so no burst of one window touches a page of another."""


class Bus(Protocol):
    """How a host reaches the core. Addresses of memory are those the core's bus sees.

    Every method raises `DeviceError` when the link fails.
    """

    def read_register(self, address: int) -> int:
        """32-bit register at a byte address of the register port."""

    def write_register(self, address: int, value: int) -> None:
        """Write a 32-bit register."""

    def read_memory(self, address: int, size: int) -> bytes:
        """`size` bytes of memory."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Write bytes of memory."""

    def wait(self, max_cycles: int) -> bool:
        """Return once the core is idle: True, or False if that takes more than `max_cycles`."""


@dataclass(frozen=True)
class MemoryMap:
    """Bus addresses and sizes of the four windows of a loaded binary."""

    base: dict[Window, int]
    size: dict[Window, int]
    end: int
    """First address after the last window."""

    @staticmethod
    def of(binary: Binary, start: int) -> MemoryMap:
        """Windows one after the other from bus address `start`, each `WINDOW_ALIGNMENT`-aligned."""
        size = {
            Window.PROGRAM: binary.program_bytes,
            Window.INPUT: binary.input_bytes,
            Window.OUTPUT: binary.output_bytes,
            Window.SCRATCH: binary.scratch_bytes,
        }
        base = {}
        for window in Window:
            base[window] = start = -(-start // WINDOW_ALIGNMENT) * WINDOW_ALIGNMENT
            start += size[window]
        return MemoryMap(base, size, start)


class Driver:
    """Runs binaries on the core behind a bus."""

    def __init__(self, bus: Bus, config: CoreConfig, cycle_limit: int = 1_000_000_000) -> None:
        """`cycle_limit`: cycles after which a run is given up. Raises `DeviceError` if the
        registers do not show a core like `config`."""
        self.bus = bus
        self.config = config
        self.cycle_limit = cycle_limit
        self.binary: Binary | None = None
        self.memory_map: MemoryMap | None = None
        self._check_identity()

    def load(self, binary: Binary, memory_start: int) -> None:
        """Place the binary's windows from bus address `memory_start` on and run its setup program.

        Raises `BinaryError` for a binary of another core, `DeviceError` when the core fails.
        """
        binary.check_config(self.config)
        self.binary = None
        memory_map = MemoryMap.of(binary, memory_start)
        self.bus.write_memory(memory_map.base[Window.PROGRAM], binary.image())
        for window in Window:
            name = window.name.lower()
            self._write(f"{name}_base", memory_map.base[window])
            self._write(f"{name}_size", memory_map.size[window])
        self._run_program(binary.setup, f"setup program of {binary.name}")
        self.binary, self.memory_map = binary, memory_map

    def run(
        self, inputs: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], Profile]:
        """As `Device.run`; the profile is that of the batch's last image."""
        outputs = self.infer(inputs)
        assert self.binary is not None
        return outputs, self.read_profile(len(self.binary.layers))

    def infer(self, inputs: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        """As `Device.run`, without looking at the counters."""
        binary, memory_map = self.binary, self.memory_map
        if binary is None or memory_map is None:
            raise DeviceError("no binary is loaded; call load first")
        batch = _batch(binary, inputs)
        outputs: dict[str, NDArray[np.uint8]] = {
            port.spec.name: np.empty((batch, *port.spec.shape), np.uint8) for port in binary.outputs
        }
        for image in range(batch):
            for port in binary.inputs:
                address = memory_map.base[Window.INPUT] + port.offset
                self.bus.write_memory(address, inputs[port.spec.name][image].tobytes())
            self._run_program(binary.inference, f"{binary.name}, image {image}")
            for port in binary.outputs:
                raw = self.bus.read_memory(memory_map.base[Window.OUTPUT] + port.offset, port.size)
                codes = np.frombuffer(raw, np.uint8).reshape(port.spec.shape)
                outputs[port.spec.name][image] = codes
        return outputs

    def read_profile(self, layers: int) -> Profile:
        """Counters of the last run; raises `DeviceError` if its marks do not fit `layers`."""
        cycles = self._read_counter("cycles")
        causes = {c.name.lower(): self._read_counter(c.name.lower()) for c in Cause}
        return profile_of(cycles, causes, self.read_trace(), layers, self.config)

    def read_trace(self) -> list[int]:
        """The trace buffer of the last run: low 32 bits of the cycle of each mark."""
        count = min(self._read("trace_count"), self.config.trace_entries)
        trace = []
        for index in range(count):
            self._write("trace_index", index)
            trace.append(self._read("trace_data"))
        return trace

    def _run_program(self, span: Span, what: str) -> None:
        self._write("program", span.offset)
        self._write("program_lines", span.lines)
        self._write("control", 1)
        if not self.bus.wait(self.cycle_limit):
            raise DeviceError(f"{what}: still busy after {self.cycle_limit} cycles")
        status = Status(self._read("status"))
        if status & Status.ERROR or not status & Status.DONE:
            code = self._read("error")
            name = ErrorCode(code).name if code in list(ErrorCode) else f"error {code}"
            line = self._read("error_line")
            raise DeviceError(f"{what}: the core stopped with {name} after {line} program lines")

    def _check_identity(self) -> None:
        identity = self._read("identity")
        if identity != IDENTITY:
            raise DeviceError(
                f"no Bitloop core answers: identity 0x{identity:08X} is not 0x{IDENTITY:08X}"
            )
        version = self._read("version")
        if version != VERSION:
            raise DeviceError(f"the core has register map {version}, this driver knows {VERSION}")
        fingerprint = f"{self._read('fingerprint_high'):08x}{self._read('fingerprint_low'):08x}"
        if fingerprint != self.config.fingerprint:
            raise DeviceError(
                f"the core's fingerprint is {fingerprint}, not that of {self.config.name} "
                f"({self.config.fingerprint}); it was built from another config"
            )

    def _read(self, name: str) -> int:
        return self.bus.read_register(ADDRESS[name])

    def _read_counter(self, name: str) -> int:
        low = self._read(f"{name}_low")  # freezes the high half
        return self._read(f"{name}_high") << 32 | low

    def _write(self, name: str, value: int) -> None:
        self.bus.write_register(ADDRESS[name], value)


def profile_of(
    cycles: int, causes: dict[str, int], trace: Sequence[int], layers: int, config: CoreConfig
) -> Profile:
    """Counters and the marks of the trace as a profile; raises `DeviceError` unless the marks are
    those of `layers` layers. Without a COMPUTE there are no marks: all cycles are the head."""
    if layers == 0 and not trace:
        return Profile(cycles, causes, head=cycles, layer_cycles=(), tail=0)
    if len(trace) != layers + 1:
        if layers + 1 > config.trace_entries:
            raise DeviceError(
                f"{layers} layers need {layers + 1} trace entries, the core has "
                f"{config.trace_entries}; raise trace_entries in its config"
            )
        raise DeviceError(f"the core marked {len(trace)} times, not {layers + 1}")
    # Entries are the low 32 bits of ascending cycle numbers.
    steps = [(b - a) % 2**32 for a, b in zip(trace, trace[1:], strict=False)]
    return Profile(
        cycles=cycles,
        causes=causes,
        head=trace[0],
        layer_cycles=tuple(steps),
        tail=cycles - trace[0] - sum(steps),
    )


def _batch(binary: Binary, inputs: Mapping[str, NDArray[np.uint8]]) -> int:
    """Batch size of valid inputs; raises `DataError` naming the input that is not."""
    names = {port.spec.name for port in binary.inputs}
    if set(inputs) != names:
        raise DataError(f"{binary.name}: inputs must be {sorted(names)}, not {sorted(inputs)}")
    sizes = {_check_array(port, inputs[port.spec.name]) for port in binary.inputs}
    if len(sizes) != 1 or 0 in sizes:
        raise DataError(f"{binary.name}: batch sizes must be equal and at least 1, not {sizes}")
    return sizes.pop()


def _check_array(port: Port, array: NDArray[np.uint8]) -> int:
    if array.dtype != np.uint8 or array.shape[1:] != port.spec.shape:
        raise DataError(
            f"input {port.spec.name}: must be uint8 (batch, {', '.join(map(str, port.spec.shape))})"
            f", not {array.dtype} {array.shape}"
        )
    return int(array.shape[0])
