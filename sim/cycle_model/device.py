# SPDX-License-Identifier: Apache-2.0
"""The cycle model as a device: cycles without the RTL, outputs from the reference device."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bitloop.binary import Binary, Span
from bitloop.devices.driver import MemoryMap, profile_of
from bitloop.devices.interface import MemoryModel, Profile
from bitloop.devices.reference import ReferenceDevice
from bitloop.devices.timeline import Timeline
from bitloop.errors import DeviceError
from bitloop.hw.config import CoreConfig
from bitloop.hw.isa import Window
from bitloop.hw.registers import Cause

from ..simulation import MEMORY_BASE, OUTSTANDING_BURSTS, check_memory
from .board_memory import BoardMemory, SdramTiming
from .definitions import parameters
from .library import COUNTERS, Progress, build_library, open_library
from .timeline import recorded


class ModelDevice:
    """Implements `bitloop.devices.interface.Device`: profiles equal to those the core counts on the
    RTL, cycle for cycle, and outputs of the reference device. `profile` is the former alone."""

    name = "model"

    def __init__(
        self,
        config: CoreConfig,
        memory: MemoryModel | BoardMemory | None = None,
        *,
        progress: Progress | None = None,
        cycle_limit: int = 1_000_000_000,
        outstanding: int = OUTSTANDING_BURSTS,
        record: bool = False,
    ) -> None:
        """`memory`: a parametric one, or a board's. `outstanding`: bursts the former accepts before
        it answers the first, each way. `record`: keep the timeline of each run."""
        self.config = config
        self.memory = memory or MemoryModel()
        self.binary: Binary | None = None
        self._progress = progress
        self._cycle_limit = cycle_limit
        self.outstanding = outstanding
        self._record = record
        self._handle: int | None = None
        self._reference: ReferenceDevice | None = None

    def load(self, binary: Binary) -> None:
        """As `Device.load`."""
        binary.check_config(self.config)
        if isinstance(self.memory, MemoryModel):
            check_memory(self.config, self.memory, self.outstanding)
        self.close()
        values = parameters(self.config)
        self._library = open_library(build_library(tuple(values), self._progress))
        memory_map = MemoryMap.of(binary, MEMORY_BASE)
        size = memory_map.end - MEMORY_BASE
        self._handle = self._create(_numbers(list(values.values())), size)
        if not self._handle:
            raise DeviceError(f"cannot allocate {size} bytes of memory")
        image = binary.image()
        start = memory_map.base[Window.PROGRAM] - MEMORY_BASE
        ctypes.memmove(self._library.bitloop_model_memory(self._handle) + start, image, len(image))
        for window in Window:
            self._library.bitloop_model_window(
                self._handle, window, memory_map.base[window], memory_map.size[window]
            )
        self._library.bitloop_model_record(self._handle, self._record)
        self._run(binary.setup, f"setup program of {binary.name}")
        self.binary = binary

    def profile(self, phase: int = 0) -> Profile:
        """Of one more inference. Cycles do not depend on what is in the images, but for the cause
        of a few cycles on what ran before. `phase`: of a board's memory as the run begins, below
        `phases`."""
        binary = self.binary
        if binary is None:
            raise DeviceError("no binary is loaded; call load first")
        self._run(binary.inference, binary.name, phase)
        counters = (ctypes.c_uint64 * COUNTERS)()
        self._library.bitloop_model_counters(self._handle, counters)
        marks = (ctypes.c_uint32 * self.config.trace_entries)()
        count = self._library.bitloop_model_trace(self._handle, marks, len(marks))
        causes = {cause.name.lower(): counters[1 + cause] for cause in Cause}
        return profile_of(counters[0], causes, marks[:count], len(binary.layers), self.config)

    def timeline(self) -> Timeline:
        """As `RecordingDevice.timeline`."""
        if self._handle is None or not self._record:
            raise DeviceError("nothing is recorded; open the device to record, load, then run")
        library = self._library
        return recorded(
            library.bitloop_model_instructions, library.bitloop_model_causes, self._handle
        )

    def run(
        self, inputs: Mapping[str, NDArray[np.uint8]]
    ) -> tuple[dict[str, NDArray[np.uint8]], Profile]:
        """As `Device.run`."""
        if self.binary is None:
            raise DeviceError("no binary is loaded; call load first")
        if self._reference is None:
            self._reference = ReferenceDevice()
            self._reference.load(self.binary)
        outputs, _ = self._reference.run(inputs)
        for _ in range(len(next(iter(inputs.values())))):
            profile = self.profile()
        return outputs, profile

    def close(self) -> None:
        """Free the model; `load` makes a new one."""
        self.binary = self._reference = None
        if self._handle:
            self._library.bitloop_model_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def _create(self, parameters: ctypes.Array, size: int) -> int | None:
        library, memory = self._library, self.memory
        if isinstance(memory, MemoryModel):
            rates = memory.latency, memory.bytes_per_cycle, self.outstanding
            return library.bitloop_model_create(parameters, MEMORY_BASE, size, *rates)
        timing = _numbers(dataclasses.astuple(memory)) if isinstance(memory, SdramTiming) else None
        return library.bitloop_model_create_board(parameters, MEMORY_BASE, size, timing)

    def _run(self, span: Span, what: str, phase: int = 0) -> None:
        message = self._library.bitloop_model_run(
            self._handle, span.offset, span.lines, self._cycle_limit, phase
        )
        if message is not None:
            raise DeviceError(f"{what}: {message.decode()}")


def _numbers(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int32 * len(values))(*values)
